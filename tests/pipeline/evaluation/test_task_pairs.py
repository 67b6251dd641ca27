"""Which of lm-eval's figures are paired, over which documents, and what their rows then say."""

import pytest

from pipeline.evaluation.paired import mcnemar
from pipeline.evaluation.task_comparison import compare_tasks
from pipeline.evaluation.task_pairs import AVERAGE, TaskPair, paired_tasks
from pipeline.evaluation.task_samples import Judged
from pipeline.spec.eval_tasks import SUITES
from tests.pipeline.evaluation.made_samples import judged_group, judged_task

DENSE, PRUNED = "0" * 64, "1" * 64
BEFORE = [1.0] * 30 + [0.0] * 10
AFTER = [0.0] * 12 + [1.0] * 18 + [1.0] * 2 + [0.0] * 8  # loses twelve, wins two


def by_figure(pairs: tuple[TaskPair, ...]) -> dict[tuple[str, str, str, str], TaskPair]:
    return {pair.figure: pair for pair in pairs}


def test_a_task_is_paired_over_its_documents() -> None:
    before, after = judged_task(DENSE, "sciq", BEFORE), judged_task(PRUNED, "sciq", AFTER)
    (pair,) = paired_tasks([before], [after])
    assert pair.figure == ("sciq", "sciq", "acc", "none")
    assert pair.difference.value == pytest.approx(-0.25)
    assert pair.difference.units == 40
    assert (pair.difference.test, pair.difference.p_value) == ("mcnemar", mcnemar(2, 12))
    assert pair.difference.low < -0.25 < pair.difference.high < 0

    (row,) = compare_tasks([before.evaluation], [after.evaluation], pairs=[pair])
    assert row.paired == pair.difference
    assert row.stands_out


def test_pairs_decide_what_stands_out() -> None:
    """Unpaired, 0.025 is within two standard errors of 0.02; but no document was lost and five were won."""
    after = [1.0] * 35 + [0.0] * 5
    before = judged_task(DENSE, "sciq", BEFORE * 5)
    found = judged_task(PRUNED, "sciq", [*BEFORE * 4, *after])
    alone = compare_tasks([before.evaluation], [found.evaluation])[0]
    paired = compare_tasks([before.evaluation], [found.evaluation], pairs=paired_tasks([before], [found]))[0]
    assert alone.difference == paired.difference == pytest.approx(0.025)
    assert not alone.stands_out
    assert paired.stands_out


@pytest.mark.parametrize("by_size", [True, False])
def test_a_group_is_paired_as_its_mean_is_made(by_size: bool) -> None:
    short = [1.0] * 10
    before = judged_group(DENSE, "mmlu", {"a": BEFORE, "b": short}, by_size=by_size)
    after = judged_group(PRUNED, "mmlu", {"a": AFTER, "b": short}, by_size=by_size)
    pairs = by_figure(paired_tasks([before], [after]))
    assert set(pairs) == {("mmlu", name, "acc", "none") for name in ("mmlu", "a", "b")}
    whole = pairs["mmlu", "mmlu", "acc", "none"].difference
    assert whole.value == pytest.approx(-0.2 if by_size else -0.125)
    assert whole.units == 50
    assert whole.test == ("mcnemar" if by_size else "sign_flip")
    rows = compare_tasks([before.evaluation], [after.evaluation], pairs=list(pairs.values()))
    assert [row.paired is not None for row in rows] == [True] * 3


def test_the_average_of_a_suite_gives_each_task_the_same_weight() -> None:
    names = list(SUITES["openba"])
    before = [judged_task(DENSE, name, BEFORE) for name in names]
    after = [judged_task(PRUNED, name, AFTER if i == 0 else BEFORE) for i, name in enumerate(names)]
    found = by_figure(paired_tasks(before, after, suite="openba"))
    average = found["openba", "openba", AVERAGE, "none"].difference
    assert average.value == pytest.approx(-0.25 / 9)
    assert average.units == 40 * 9
    rows = compare_tasks(
        [one.evaluation for one in before],
        [one.evaluation for one in after],
        pairs=list(found.values()),
        suite="openba",
    )
    assert rows[-1].paired == average
    assert rows[-1].difference == pytest.approx(average.value)


@pytest.mark.parametrize(
    "other",
    [
        judged_task(PRUNED, "sciq", AFTER, seen="others"),
        Judged(judged_task(PRUNED, "sciq", AFTER).evaluation, None),
        Judged(judged_task(PRUNED, "sciq", BEFORE).evaluation, judged_task(PRUNED, "sciq", AFTER).samples),
        judged_task(PRUNED, "sciq", AFTER[:-1]),
    ],
    ids=["other documents", "nothing kept", "no mean of its values", "fewer documents"],
)
def test_what_cannot_be_paired_is_left_out(other: Judged) -> None:
    assert paired_tasks([judged_task(DENSE, "sciq", BEFORE)], [other]) == ()


def test_a_handful_of_documents_is_left_out() -> None:
    before, after = judged_task(DENSE, "sciq", BEFORE[-9:]), judged_task(PRUNED, "sciq", AFTER[-9:])
    assert paired_tasks([before], [after]) == ()
