"""Dense, pruned and recovered side by side, and only where all were measured under the same contract."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Literal, TypeVar

from pipeline.canonical import Frozen
from pipeline.errors import StageError
from pipeline.evaluation.task_results import TaskContract, TaskEvaluation, TaskMetric, TaskResult
from pipeline.spec.eval_tasks import SUITES, Suite
from pipeline.spec.evaluation import EvaluationResult, PerplexityContract, PerplexityResult

AVERAGE = "average"
OWN = frozenset({"tokenizer_digest", "windows", "tokens_scored", "tokens_per_byte"})  # of a tokenizer
T = TypeVar("T")


class UnequalContracts(StageError):
    """Two figures that may not stand side by side."""

    code = "unequal_contracts"
    retryable = False


class Comparison(Frozen):
    """Perplexity on one text. `pruned`, `recovered`: None where the job has no such model. `ratio`: of the
    final one to the dense one. `per`: what is predicted each time; models whose tokens are not the same are
    compared by the byte, exp(loss × tokens per byte), which lm-eval calls byte perplexity. `contract`: that
    of the dense model."""

    name: str
    per: Literal["token", "byte"] = "token"
    dense: float
    pruned: float | None = None
    recovered: float | None = None
    ratio: float
    contract: PerplexityContract

    @property
    def title(self) -> str:
        """Its name in tables."""
        return self.name if self.per == "token" else f"{self.name}, per byte"

    @property
    def final(self) -> float:
        """Of the model that is published."""
        return _final(self.pruned, self.recovered)

    @property
    def recovered_share(self) -> float | None:
        """Share of the log-perplexity lost in pruning that training has won back: 1 is all of it, below 0 it
        has made things worse. None where nothing was pruned, trained or lost."""
        if self.pruned is None or self.recovered is None or self.pruned <= self.dense:
            return None
        lost = math.log(self.pruned) - math.log(self.dense)
        return (math.log(self.pruned) - math.log(self.recovered)) / lost


class TaskComparison(Frozen):
    """One metric of one lm-eval task. `difference` = final - dense, in the metric's own unit.

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
    pruned: float | None = None
    pruned_stderr: float | None = None
    recovered: float | None = None
    recovered_stderr: float | None = None
    difference: float
    group: str | None
    main: bool

    @property
    def final(self) -> float:
        """Of the model that is published."""
        return _final(self.pruned, self.recovered)

    @property
    def final_stderr(self) -> float | None:
        """Its standard error."""
        return self.pruned_stderr if self.recovered is None else self.recovered_stderr

    @property
    def stands_out(self) -> bool:
        """Whether the difference exceeds two combined standard errors: sqrt(dense² + final²), as if the two
        models had answered different questions. Theirs are the same, so this is on the cautious side."""
        if self.dense_stderr is None or self.final_stderr is None:
            return False
        return abs(self.difference) > 2 * math.hypot(self.dense_stderr, self.final_stderr)


def compare(
    dense: EvaluationResult,
    pruned: EvaluationResult | None = None,
    recovered: EvaluationResult | None = None,
    *,
    own_tokenizers: bool = False,
) -> tuple[Comparison, ...]:
    """The figures of all, text by text, in order; at least one of `pruned` and `recovered` is given.
    `own_tokenizers`: by the byte, as the models cut texts into tokens in different ways.

    Raises UnequalContracts that names the text and what differs.
    """
    figure = _per_byte if own_tokenizers else _per_token
    others = _given(pruned, recovered)
    names = [result.name for result in dense.perplexity]
    for which, other in others.items():
        _same_names(names, [result.name for result in other.perplexity], which, "texts")
    compared = []
    for i, ours in enumerate(dense.perplexity):
        values = {}
        for which, other in others.items():
            theirs = other.perplexity[i]
            _same_contract(
                ours.contract,
                theirs.contract,
                which,
                f"perplexity on {ours.name!r}",
                but=OWN if own_tokenizers else frozenset(),
            )
            values[which] = figure(theirs)
        dense_value, final = figure(ours), list(values.values())[-1]
        compared.append(
            Comparison(
                name=ours.name,
                per="byte" if own_tokenizers else "token",
                dense=dense_value,
                pruned=values.get("pruned"),
                recovered=values.get("recovered"),
                ratio=final / dense_value,
                contract=ours.contract,
            )
        )
    return tuple(compared)


def compare_tasks(
    dense: Sequence[TaskEvaluation],
    pruned: Sequence[TaskEvaluation] | None = None,
    recovered: Sequence[TaskEvaluation] | None = None,
    *,
    suite: Suite | None = None,
    own_tokenizers: bool = False,
) -> tuple[TaskComparison, ...]:
    """All metrics of all, task by task, in order; at the end the suite's average, if there is one.
    `own_tokenizers`: the models need not cut the questions into the same tokens.

    Raises UnequalContracts that names the task and what differs.
    """
    ours = [(evaluation.task, result) for evaluation in dense for result in evaluation.results]
    with_mean = {asked for asked, result in ours if result.aggregate}
    others = {
        which: [result for evaluation in evaluations for result in evaluation.results]
        for which, evaluations in _given(pruned, recovered).items()
    }
    names = [result.task for _, result in ours]
    for which, results in others.items():
        _same_names(names, [result.task for result in results], which, "tasks")
    rows: list[TaskComparison] = []
    but = OWN if own_tokenizers else frozenset[str]()
    for i, (asked, before) in enumerate(ours):
        member = asked in with_mean and before.group is not None
        after = {which: results[i] for which, results in others.items()}
        rows += _compared(before, after, member=member, but=but)
    return (*rows, *_average(rows, suite))


def _per_token(result: PerplexityResult) -> float:
    return result.perplexity


def _per_byte(result: PerplexityResult) -> float:
    rate = result.contract.tokens_per_byte
    if rate is None:
        raise UnequalContracts(
            f"perplexity on {result.name!r} was measured without tokens per byte; evaluate it again"
        )
    return math.exp(result.loss * rate)


def _given(pruned: T | None, recovered: T | None) -> dict[str, T]:
    given = {"pruned": pruned, "recovered": recovered}
    return {which: one for which, one in given.items() if one is not None}


def _final(pruned: float | None, recovered: float | None) -> float:
    final = pruned if recovered is None else recovered
    assert final is not None, "a comparison has a model beside the dense one"
    return final


def _compared(
    dense: TaskResult, others: Mapping[str, TaskResult], *, member: bool, but: frozenset[str]
) -> Iterator[TaskComparison]:
    metrics: dict[str, dict[tuple[str, str], TaskMetric]] = {}
    for which, other in others.items():
        _same_contract(dense.contract, other.contract, which, f"task {dense.task!r}", but=but)
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
    """Mean of a suite's main metrics, each task counting once, if all of them were evaluated."""
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
        difference=_final(pruned, recovered) - dense,
        group=None,
        main=True,
    )


def _mean_of_all(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return _mean(known) if len(known) == len(values) else None


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def _stderr_of_mean(stderrs: Sequence[float | None]) -> float | None:
    """Of the mean of independent figures."""
    known = [stderr for stderr in stderrs if stderr is not None]
    return math.hypot(*known) / len(known) if len(known) == len(stderrs) else None


def _same_names(dense: Sequence[str], other: Sequence[str], which: str, what: str) -> None:
    if dense != other:
        raise UnequalContracts(
            f"dense was evaluated on {dense}, {which} on {other}; evaluate both on the same {what}"
        )


def _same_contract(
    dense: PerplexityContract | TaskContract,
    other: PerplexityContract | TaskContract,
    which: str,
    what: str,
    *,
    but: frozenset[str],
) -> None:
    before, after = dense.model_dump(), other.model_dump()
    differing = [
        f"{field} is {value} for dense and {after[field]} for {which}"
        for field, value in before.items()
        if value != after[field] and field not in but
    ]
    if differing:
        raise UnequalContracts(f"{what} is not comparable: {'; '.join(differing)}")
