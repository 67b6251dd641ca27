"""lm-eval's figures stand side by side where they may, and short tables show the right ones."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.evaluation.contracts import UnequalContracts
from pipeline.evaluation.task_comparison import AVERAGE, compare_tasks
from pipeline.evaluation.task_results import TaskMetric
from tests.pipeline.evaluation.made_tasks import evaluated, made_contract, made_suite, made_task, made_tasks

DENSE, PRUNED = "0" * 64, "1" * 64


def test_every_metric_is_a_row_and_one_of_a_task_is_main() -> None:
    rows = compare_tasks(made_tasks(DENSE), made_tasks(PRUNED, shift=-0.25))
    assert [(row.task, row.metric, row.group, row.main) for row in rows] == [
        ("arc_easy", "acc", None, False),
        ("arc_easy", "acc_norm", None, True),
        ("mmlu", "acc", None, True),
        ("mmlu_stem", "acc", "mmlu", False),
        ("mmlu_anatomy", "acc", "mmlu", False),
        ("lambada_openai", "perplexity", None, False),
        ("lambada_openai", "acc", None, True),
    ]
    by_metric = {(row.task, row.metric): row for row in rows}
    assert by_metric["arc_easy", "acc"].difference == pytest.approx(-0.25)
    assert by_metric["lambada_openai", "perplexity"].difference == pytest.approx(2.5)
    assert by_metric["lambada_openai", "perplexity"].higher_is_better is False


def test_members_of_a_group_without_a_mean_are_main() -> None:
    both = [
        (evaluated(which, made_task("a", group="tag", acc=0.5), made_task("b", group="tag", acc=0.5)),)
        for which in (DENSE, PRUNED)
    ]
    assert [(row.task, row.main) for row in compare_tasks(*both)] == [("a", True), ("b", True)]


@pytest.mark.parametrize(
    ("metrics", "expected"),
    [
        ([("acc", "none"), ("acc_norm", "none")], ("acc_norm", "none")),
        ([("perplexity", "none"), ("acc", "none")], ("acc", "none")),
        ([("exact_match", "strict-match"), ("exact_match", "flexible")], ("exact_match", "strict-match")),
        ([("f1", "x"), ("exact_match", "x"), ("exact_match", "none")], ("exact_match", "none")),
        ([("word_perplexity", "none"), ("bits_per_byte", "none")], ("word_perplexity", "none")),
    ],
)
def test_the_main_metric(metrics: list[tuple[str, str]], expected: tuple[str, str]) -> None:
    task = made_task("x", acc=0.5).model_copy(
        update={
            "metrics": tuple(
                TaskMetric(metric=name, filter=chosen, value=1, stderr=None, higher_is_better=None)
                for name, chosen in metrics
            )
        }
    )
    assert (task.main.metric, task.main.filter) == expected


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("harness_version", "0.4.12"),
        ("task_version", "2.0"),
        ("task_digest", "f" * 64),
        ("dataset_revision", None),
        ("num_fewshot", 5),
        ("limit", 10),
        ("samples", 99),
        ("batch_size", 1),
        ("seed", 0),
        ("dtype", "bfloat16"),
        ("max_length", 128),
        ("tokenizer_digest", "e" * 64),
    ],
)
def test_unequal_contracts_are_refused(field: str, value: object) -> None:
    dense = evaluated(DENSE, made_task("arc_easy", acc=0.5))
    other = dense.results[0].model_copy(update={"contract": made_contract("arc_easy", **{field: value})})
    with pytest.raises(UnequalContracts, match=f"'arc_easy' is not comparable: {field} is"):
        compare_tasks((dense,), (evaluated(PRUNED, other),))


def test_questions_may_be_cut_into_other_tokens() -> None:
    other = made_task("arc_easy", acc=0.5)
    other = other.model_copy(
        update={"contract": other.contract.model_copy(update={"tokenizer_digest": "other"})}
    )
    pruned = (evaluated(PRUNED, other),)
    dense = (evaluated(DENSE, made_task("arc_easy", acc=0.75)),)
    with pytest.raises(UnequalContracts, match="tokenizer_digest"):
        compare_tasks(dense, pruned)
    (row,) = compare_tasks(dense, pruned, own_tokenizers=True)
    assert row.difference == -0.25


def test_other_tasks_and_metrics_are_refused() -> None:
    dense = (evaluated(DENSE, made_task("arc_easy", acc=0.5)),)
    with pytest.raises(UnequalContracts, match="evaluate both on the same tasks"):
        compare_tasks(dense, ())
    with pytest.raises(UnequalContracts, match="acc,none for dense only"):
        compare_tasks(dense, (evaluated(PRUNED, made_task("arc_easy", f1=0.5)),))


def test_the_suite_has_an_average_when_all_of_it_was_asked() -> None:
    dense, pruned = made_suite(DENSE), made_suite(PRUNED, shift=-0.125)
    *tasks, average = compare_tasks(dense, pruned, suite="openba")
    assert len(tasks) == 9
    assert (average.task, average.metric, average.main) == ("openba", AVERAGE, True)
    assert (average.dense, average.pruned, average.difference) == pytest.approx((0.5, 0.375, -0.125))
    assert average.dense_stderr == pytest.approx(0.02 / 3)
    assert average.samples == 900
    assert compare_tasks(dense, pruned) == tuple(tasks)
    assert all(row.metric != AVERAGE for row in compare_tasks(dense[1:], pruned[1:], suite="openba"))


def test_three_models_stand_side_by_side_and_the_last_one_counts() -> None:
    dense, pruned, recovered = (
        made_suite(DENSE),
        made_suite(PRUNED, shift=-0.2),
        made_suite("2" * 64, shift=-0.05),
    )
    rows = compare_tasks(dense, pruned, recovered, suite="openba")
    for row in rows:
        assert (row.dense, row.pruned, row.recovered) == pytest.approx((0.5, 0.3, 0.45))
        assert (row.final, row.difference) == pytest.approx((0.45, -0.05))
    assert not rows[0].stands_out
    trained = compare_tasks(dense, recovered=recovered)
    assert trained[0].pruned is None
    assert trained[0].final == pytest.approx(0.45)
    other = evaluated("2" * 64, made_task("arc_easy", f1=0.5))
    dense = pruned = (evaluated(DENSE, made_task("arc_easy", acc=0.5)),)
    with pytest.raises(UnequalContracts, match="acc,none for dense and not for recovered"):
        compare_tasks(dense, pruned, (other,))


@given(st.floats(0, 1), st.floats(0, 1), st.floats(0, 0.1), st.floats(0, 0.1))
def test_what_stands_out_does_so_in_both_directions(a: float, b: float, first: float, second: float) -> None:
    def rows(x: float, y: float) -> bool:
        sides = []
        for which, value, stderr in ((DENSE, x, first), (PRUNED, y, second)):
            task = made_task("t", acc=value)
            metric = task.metrics[0].model_copy(update={"stderr": stderr})
            sides.append((evaluated(which, task.model_copy(update={"metrics": (metric,)})),))
        (row,) = compare_tasks(*sides)
        return row.stands_out

    assert rows(a, b) == (abs(b - a) > 2 * math.hypot(first, second))
    assert rows(a, a) is False
