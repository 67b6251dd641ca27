"""Several jobs side by side: what stands in a row, what is refused, what is left out and said."""

from dataclasses import replace
from typing import Any

import pytest

from pipeline.evaluation.contracts import UnequalContracts
from pipeline.evaluation.job_comparison import JobFigures, compare_jobs
from pipeline.evaluation.task_samples import Judged
from pipeline.spec.evaluation import EvaluationResult
from tests.pipeline.evaluation.made_samples import judged_group, judged_task
from tests.pipeline.report.made_pairs import windowed

DENSE, FIRST, SECOND = "0" * 64, "1" * 64, "2" * 64
RIGHT = [1.0] * 80 + [0.0] * 20


def job(name: str, checkpoint: str, *, shift: float, lost: int) -> JobFigures:
    """A job that was evaluated on one text and one task."""
    return JobFigures(
        job=name,
        dense=windowed(DENSE, shift=0),
        final=windowed(checkpoint, shift=shift),
        dense_tasks=(judged_task(DENSE, "sciq", RIGHT),),
        final_tasks=(judged_task(checkpoint, "sciq", [0.0] * lost + RIGHT[lost:]),),
    )


A, B = job("job-a", FIRST, shift=0.1, lost=5), job("job-b", SECOND, shift=0.3, lost=30)


def with_contract(result: EvaluationResult, **changes: Any) -> EvaluationResult:
    (text,) = result.perplexity
    contract = text.contract.model_copy(update=changes)
    return result.model_copy(update={"perplexity": (text.model_copy(update={"contract": contract}),)})


def with_task_contract(judged: Judged, **changes: Any) -> Judged:
    results = tuple(
        result.model_copy(update={"contract": result.contract.model_copy(update=changes)})
        for result in judged.evaluation.results
    )
    return Judged(judged.evaluation.model_copy(update={"results": results}), judged.samples)


def test_figures_stand_side_by_side_with_paired_differences() -> None:
    compared = compare_jobs([A, B, A])
    text, task = compared.figures
    assert (text.kind, text.name, text.metric, text.per) == ("text", "wiki.txt", "perplexity", "token")
    assert text.dense == A.dense.perplexity[0].perplexity
    finals = [one.final.perplexity[0].perplexity for one in (A, B, A)]
    assert text.values == pytest.approx(finals)
    worse, same = text.differences
    assert worse.value == pytest.approx(finals[1] - finals[0])
    assert worse.paired is not None
    assert worse.paired.stands_out
    assert same.value == 0
    assert (task.name, task.metric, task.dense, task.values) == (
        "sciq",
        "acc",
        pytest.approx(0.8),
        pytest.approx((0.75, 0.5, 0.75)),
    )
    assert task.differences[0].paired is not None
    assert task.differences[0].paired.units == 100
    assert (compared.left_out, compared.not_recorded) == ((), {})


def test_another_dense_model_is_not_hidden() -> None:
    other = replace(B, dense=windowed(DENSE, shift=0.01))
    assert compare_jobs([A, other]).figures[0].dense is None


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("text_digest", "f" * 64),
        ("tokenizer_digest", "f" * 64),
        ("sequence_length", 1024),
        ("stride", 256),
        ("bos", "tokenizer"),
        ("windows", 15),
        ("dtype", "bfloat16"),
        ("split", "train"),
        ("device", "NVIDIA H200"),
        ("tokens_per_byte", 0.25),
    ],
)
def test_unequal_contracts_are_refused_by_job_and_field(field: str, value: object) -> None:
    other = replace(B, final=with_contract(B.final, **{field: value}))
    with pytest.raises(UnequalContracts, match=rf"'wiki.txt' is not comparable: {field} is .* for job-a and"):
        compare_jobs([A, other])


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("harness_version", "0.5"),
        ("task_digest", "f" * 64),
        ("dataset_revision", None),
        ("num_fewshot", 5),
        ("limit", 50),
        ("batch_size", 16),
    ],
)
def test_so_are_those_of_tasks(field: str, value: object) -> None:
    other = replace(B, final_tasks=(with_task_contract(B.final_tasks[0], **{field: value}),))
    with pytest.raises(UnequalContracts, match=rf"task 'sciq' is not comparable: {field} is .* for job-b"):
        compare_jobs([A, other])


def test_what_was_not_recorded_is_said_and_not_compared() -> None:
    earlier = replace(A, final=with_contract(A.final, split=None, device=None))
    for jobs in ([earlier, B], [B, earlier]):
        assert compare_jobs(jobs).not_recorded == {"job-a": ("device", "split")}
    assert compare_jobs([earlier, earlier]).not_recorded == {}


def test_what_not_all_were_evaluated_on_is_left_out_and_said() -> None:
    more = replace(
        B,
        dense_tasks=(*B.dense_tasks, judged_task(DENSE, "piqa", RIGHT)),
        final_tasks=(*B.final_tasks, judged_task(SECOND, "piqa", RIGHT)),
    )
    without = replace(A, final=EvaluationResult(checkpoint_digest=FIRST), dense=A.dense)
    compared = compare_jobs([without, more])
    assert [figure.name for figure in compared.figures] == ["sciq"]
    assert compared.left_out == ("text wiki.txt", "task piqa")
    assert compare_jobs([more, without]).left_out == compared.left_out


def test_cut_vocabularies_are_compared_by_the_byte_and_without_windows() -> None:
    cut = replace(
        B,
        dense=with_contract(B.dense, tokens_per_byte=0.25),
        final=with_contract(B.final, tokenizer_digest="f" * 64, tokens_per_byte=0.3, windows=19),
        own_tokenizer=True,
    )
    whole = replace(
        A,
        dense=with_contract(A.dense, tokens_per_byte=0.25),
        final=with_contract(A.final, tokens_per_byte=0.25),
    )
    text, task = compare_jobs([whole, cut]).figures
    assert text.per == "byte"
    assert text.differences[0].paired is None
    assert task.differences[0].paired is not None
    with pytest.raises(UnequalContracts, match="tokenizer_digest"):
        compare_jobs([whole, replace(cut, own_tokenizer=False)])


def test_groups_stand_before_their_members() -> None:
    members = {"a": RIGHT, "b": RIGHT}
    group = replace(
        A,
        dense_tasks=(judged_group(DENSE, "mmlu", members),),
        final_tasks=(judged_group(FIRST, "mmlu", members),),
    )
    rows = compare_jobs([group, group]).figures[1:]
    assert [(row.name, row.main) for row in rows] == [("mmlu", True), ("a", False), ("b", False)]
