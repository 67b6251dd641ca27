"""The comparison of lm-eval's figures of the dense, pruned and recovered model."""

import math
from collections.abc import Iterator, Mapping, Sequence

from pipeline.canonical import Frozen
from pipeline.evaluation.contracts import (
    ELSEWHERE,
    OWN,
    UnequalContracts,
    check_same_contract,
    check_same_names,
    final_of,
    others_of,
)
from pipeline.evaluation.difference import PairedDifference
from pipeline.evaluation.task_pairs import AVERAGE, TaskPair
from pipeline.evaluation.task_results import TaskEvaluation, TaskMetric, TaskResult
from pipeline.spec.eval_tasks import SUITES, Suite


class TaskComparison(Frozen):
    """One metric of one lm-eval task. `difference` = final - dense, in the metric's own unit.

    `main`: True if short tables show it; `group`: the name in the spec that includes the task, if it is not
    the task's own. Members of a group that has a mean of its own are not main. `limit`: only this number of
    questions was asked, so the figure cannot be compared with published ones. `paired`: the difference with
    its certainty, over the same documents; None where the figure is no mean over documents, where there are
    fewer than ten, and in comparisons of earlier versions.
    """

    task: str
    metric: str
    filter: str
    higher_is_better: bool | None
    num_fewshot: int | None
    limit: int | None
    samples: int
    dense: float
    dense_stderr: float | None
    pruned: float | None = None
    pruned_stderr: float | None = None
    recovered: float | None = None
    recovered_stderr: float | None = None
    difference: float
    group: str | None
    main: bool
    paired: PairedDifference | None = None

    @property
    def figure(self) -> tuple[str, str, str, str]:
        """The name in the spec that includes the task, task, metric and filter: no other row has the same."""
        return (self.group or self.task, self.task, self.metric, self.filter)

    @property
    def final(self) -> float:
        """The figure of the published model."""
        return final_of(self.pruned, self.recovered)

    @property
    def final_stderr(self) -> float | None:
        """The standard error of the published model's figure."""
        return self.pruned_stderr if self.recovered is None else self.recovered_stderr

    @property
    def stands_out(self) -> bool:
        """True if the paired 95 % interval of the difference does not hold zero. Where there is none: if the
        difference exceeds two combined standard errors, sqrt(dense² + final²), as if the two models had
        answered different questions. They are the same, so that test is cautious."""
        if self.paired is not None:
            return self.paired.stands_out
        if self.dense_stderr is None or self.final_stderr is None:
            return False
        return abs(self.difference) > 2 * math.hypot(self.dense_stderr, self.final_stderr)


def compare_tasks(
    dense: Sequence[TaskEvaluation],
    pruned: Sequence[TaskEvaluation] | None = None,
    recovered: Sequence[TaskEvaluation] | None = None,
    *,
    pairs: Sequence[TaskPair] = (),
    suite: Suite | None = None,
    own_tokenizers: bool = False,
) -> tuple[TaskComparison, ...]:
    """Compare all metrics of all models, task by task, in order; the suite's average, if there is one, comes
    last. `pairs`: what is known of the differences between dense and final. `own_tokenizers`: the models may
    cut the questions into different tokens.

    Raises UnequalContracts that names the task and what differs.
    """
    ours = [(evaluation.task, result) for evaluation in dense for result in evaluation.results]
    with_mean = {asked for asked, result in ours if result.aggregate}
    others = {
        which: [result for evaluation in evaluations for result in evaluation.results]
        for which, evaluations in others_of(pruned, recovered).items()
    }
    names = [result.task for _, result in ours]
    for which, results in others.items():
        check_same_names(names, [result.task for result in results], which, "tasks")
    rows: list[TaskComparison] = []
    but = ELSEWHERE | OWN if own_tokenizers else ELSEWHERE
    for i, (asked, before) in enumerate(ours):
        member = asked in with_mean and before.group is not None
        after = {which: results[i] for which, results in others.items()}
        rows += _compared(before, after, member=member, but=but)
    known = {pair.figure: pair.difference for pair in pairs}
    return tuple(
        row.model_copy(update={"paired": known.get(row.figure)}) for row in (*rows, *_average(rows, suite))
    )


def limits_of(tasks: Sequence[TaskComparison]) -> str:
    """The limits as words: `limit 25`, or `limit 25 to 100`; empty when all questions were asked."""
    limits = sorted({task.limit for task in tasks if task.limit is not None})
    if not limits:
        return ""
    return f"limit {limits[0]}" if len(limits) == 1 else f"limit {limits[0]} to {limits[-1]}"


def _compared(
    dense: TaskResult, others: Mapping[str, TaskResult], *, member: bool, but: frozenset[str]
) -> Iterator[TaskComparison]:
    metrics: dict[str, dict[tuple[str, str], TaskMetric]] = {}
    for which, other in others.items():
        check_same_contract(dense.contract, other.contract, which, f"task {dense.task!r}", but=but)
        metrics[which] = {(metric.metric, metric.filter): metric for metric in other.metrics}
    for metric in dense.metrics:
        found = {}
        for which, known in metrics.items():
            other_metric = known.get((metric.metric, metric.filter))
            if other_metric is None:
                only = "dense only" if len(others) == 1 else f"dense and not for {which}"
                raise UnequalContracts(f"task {dense.task!r} has {metric.metric},{metric.filter} for {only}")
            found[which] = other_metric
        pruned, recovered = found.get("pruned"), found.get("recovered")
        yield TaskComparison(
            task=dense.task,
            metric=metric.metric,
            filter=metric.filter,
            higher_is_better=metric.higher_is_better,
            num_fewshot=dense.contract.num_fewshot,
            limit=dense.contract.limit,
            samples=dense.contract.samples,
            dense=metric.value,
            dense_stderr=metric.stderr,
            pruned=pruned.value if pruned is not None else None,
            pruned_stderr=pruned.stderr if pruned is not None else None,
            recovered=recovered.value if recovered is not None else None,
            recovered_stderr=recovered.stderr if recovered is not None else None,
            difference=list(found.values())[-1].value - metric.value,
            group=dense.group,
            main=metric is dense.main and not member,
        )


def _average(rows: Sequence[TaskComparison], suite: Suite | None) -> Iterator[TaskComparison]:
    """The mean of a suite's main metrics, each task counting once, if all its tasks were evaluated."""
    if suite is None:
        return
    main = {row.task: row for row in rows if row.main and row.group is None and row.task in SUITES[suite]}
    if len(main) < len(SUITES[suite]):
        return
    found = list(main.values())
    limits = {row.limit for row in found}
    dense = _mean([row.dense for row in found])
    pruned = _mean_of_all([row.pruned for row in found])
    recovered = _mean_of_all([row.recovered for row in found])
    yield TaskComparison(
        task=suite,
        metric=AVERAGE,
        filter="none",
        higher_is_better=True,
        num_fewshot=None,
        limit=limits.pop() if len(limits) == 1 else None,
        samples=sum(row.samples for row in found),
        dense=dense,
        dense_stderr=_stderr_of_mean([row.dense_stderr for row in found]),
        pruned=pruned,
        pruned_stderr=_stderr_of_mean([row.pruned_stderr for row in found]),
        recovered=recovered,
        recovered_stderr=_stderr_of_mean([row.recovered_stderr for row in found]),
        difference=final_of(pruned, recovered) - dense,
        group=None,
        main=True,
    )


def _mean_of_all(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return _mean(known) if len(known) == len(values) else None


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def _stderr_of_mean(stderrs: Sequence[float | None]) -> float | None:
    """The standard error of the mean of independent figures."""
    known = [stderr for stderr in stderrs if stderr is not None]
    return math.hypot(*known) / len(known) if len(known) == len(stderrs) else None
