"""Dense and pruned side by side, and only where both were measured under the same contract."""

import math
from collections.abc import Iterator, Sequence

from pipeline.canonical import Frozen
from pipeline.errors import StageError
from pipeline.eval_tasks import SUITES, Suite
from pipeline.evaluation import EvaluationResult, PerplexityContract
from pipeline.task_results import TaskContract, TaskEvaluation, TaskResult

AVERAGE = "average"


class UnequalContracts(StageError):
    """Two figures that may not stand side by side."""

    code = "unequal_contracts"
    retryable = False


class Comparison(Frozen):
    """One text. `ratio` = pruned / dense perplexity."""

    name: str
    dense: float
    pruned: float
    ratio: float
    contract: PerplexityContract


class TaskComparison(Frozen):
    """One metric of one lm-eval task. `difference` = pruned - dense, in the metric's own unit.

    `main`: short tables show it; `group`: the name in the spec that the task was asked through, if it is
    another one. Members of a group that has a mean of its own are not main. `limit`: only so many questions
    were asked, so that the figure cannot be compared with published ones.
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
    pruned: float
    pruned_stderr: float | None
    difference: float
    group: str | None
    main: bool

    @property
    def stands_out(self) -> bool:
        """Whether the difference exceeds two combined standard errors: sqrt(dense² + pruned²), as if the two
        models had answered different questions. Theirs are the same, so this is on the cautious side."""
        if self.dense_stderr is None or self.pruned_stderr is None:
            return False
        return abs(self.difference) > 2 * math.hypot(self.dense_stderr, self.pruned_stderr)


def compare(dense: EvaluationResult, pruned: EvaluationResult) -> tuple[Comparison, ...]:
    """The figures of both, text by text, in order.

    Raises UnequalContracts that names the text and what differs.
    """
    dense_names = [result.name for result in dense.perplexity]
    pruned_names = [result.name for result in pruned.perplexity]
    if dense_names != pruned_names:
        raise UnequalContracts(
            f"dense was evaluated on {dense_names}, pruned on {pruned_names}; evaluate both on the same texts"
        )
    pairs = zip(dense.perplexity, pruned.perplexity, strict=True)
    compared = []
    for ours, theirs in pairs:
        differing = _differences(ours.contract, theirs.contract)
        if differing:
            raise UnequalContracts(f"perplexity on {ours.name!r} is not comparable: {'; '.join(differing)}")
        compared.append(
            Comparison(
                name=ours.name,
                dense=ours.perplexity,
                pruned=theirs.perplexity,
                ratio=theirs.perplexity / ours.perplexity,
                contract=ours.contract,
            )
        )
    return tuple(compared)


def compare_tasks(
    dense: Sequence[TaskEvaluation], pruned: Sequence[TaskEvaluation], *, suite: Suite | None = None
) -> tuple[TaskComparison, ...]:
    """All metrics of both, task by task, in order; at the end the suite's average, if there is one.

    Raises UnequalContracts that names the task and what differs.
    """
    ours = [(evaluation.task, result) for evaluation in dense for result in evaluation.results]
    theirs = [(evaluation.task, result) for evaluation in pruned for result in evaluation.results]
    dense_names, pruned_names = ([result.task for _, result in results] for results in (ours, theirs))
    if dense_names != pruned_names:
        raise UnequalContracts(
            f"dense was evaluated on {dense_names}, pruned on {pruned_names}; evaluate both on the same tasks"
        )
    with_mean = {asked for asked, result in ours if result.aggregate}
    rows: list[TaskComparison] = []
    for (asked, before), (_, after) in zip(ours, theirs, strict=True):
        member = asked in with_mean and before.group is not None
        rows += _compared(before, after, member=member)
    return (*rows, *_average(rows, suite))


def _compared(dense: TaskResult, pruned: TaskResult, *, member: bool) -> Iterator[TaskComparison]:
    differing = _differences(dense.contract, pruned.contract)
    if differing:
        raise UnequalContracts(f"task {dense.task!r} is not comparable: {'; '.join(differing)}")
    others = {(metric.metric, metric.filter): metric for metric in pruned.metrics}
    for metric in dense.metrics:
        other = others.get((metric.metric, metric.filter))
        if other is None:
            raise UnequalContracts(f"task {dense.task!r} has {metric.metric},{metric.filter} for dense only")
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
            pruned=other.value,
            pruned_stderr=other.stderr,
            difference=other.value - metric.value,
            group=dense.group,
            main=metric is dense.main and not member,
        )


def _average(rows: Sequence[TaskComparison], suite: Suite | None) -> Iterator[TaskComparison]:
    """Mean of a suite's main metrics, each task counting once, if all of them were evaluated."""
    if suite is None:
        return
    main = {row.task: row for row in rows if row.main and row.group is None and row.task in SUITES[suite]}
    if len(main) < len(SUITES[suite]):
        return
    found = list(main.values())
    limits = {row.limit for row in found}
    dense, pruned = _mean([row.dense for row in found]), _mean([row.pruned for row in found])
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
        difference=pruned - dense,
        group=None,
        main=True,
    )


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def _stderr_of_mean(stderrs: Sequence[float | None]) -> float | None:
    """Of the mean of independent figures."""
    known = [stderr for stderr in stderrs if stderr is not None]
    return math.hypot(*known) / len(known) if len(known) == len(stderrs) else None


def _differences(
    dense: PerplexityContract | TaskContract, pruned: PerplexityContract | TaskContract
) -> list[str]:
    before, after = dense.model_dump(), pruned.model_dump()
    return [
        f"{field} is {value} for dense and {after[field]} for pruned"
        for field, value in before.items()
        if value != after[field]
    ]
