"""The figures of a task document by document, which paired statistics need."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pydantic import Field

from pipeline.canonical import Frozen
from pipeline.evaluation.task_results import TaskEvaluation, TaskMetric, TaskResult

CLOSE = 1e-9  # relative; lm-eval sums in another order


class MetricValues(Frozen):
    """One metric: a value for each document, in the order in which they were asked."""

    metric: str
    filter: str
    values: tuple[float, ...]


class TaskValues(Frozen):
    """One question set. `documents`: the first 16 hex digits of the SHA-256 of each document, as lm-eval
    computes it over the document's JSON; prompts and answers are not kept. Metrics whose values are no finite
    numbers, such as pairs of texts, are left out."""

    task: str
    documents: tuple[str, ...]
    metrics: tuple[MetricValues, ...]

    def of(self, metric: TaskMetric) -> tuple[float, ...] | None:
        """The values behind a figure; None where none were kept."""
        for kept in self.metrics:
            if (kept.metric, kept.filter) == (metric.metric, metric.filter):
                return kept.values
        return None


class TaskSamples(Frozen):
    """Content of `samples.json`: the values of one checkpoint on one name of the spec. `groups`: the question
    sets below each group."""

    checkpoint_digest: str
    task: str
    leaves: tuple[TaskValues, ...]
    groups: dict[str, tuple[str, ...]] = Field(default_factory=dict)


@dataclass(frozen=True)
class Stratum:
    """The values of two models on the documents of one question set. `weight`: its share in the figure; the
    weights of all strata of a figure sum to 1."""

    weight: float
    before: tuple[float, ...]
    after: tuple[float, ...]

    def weighing(self, share: float) -> "Stratum":
        """The same documents as a part of a larger mean."""
        return Stratum(self.weight * share, self.before, self.after)


@dataclass(frozen=True)
class Judged:
    """One model's figures on one name of the spec, and the values behind them, if they were kept."""

    evaluation: TaskEvaluation
    samples: TaskSamples | None


def paired_strata(
    before: Judged, after: Judged
) -> Iterator[tuple[TaskResult, TaskMetric, tuple[Stratum, ...]]]:
    """For each figure that is a mean over documents: what both models did on each of them.

    A figure is left out where values were not kept, where the documents are not the same, or where it is no
    mean of its values (as an F1 score over all documents, or a perplexity). A group's figure is the mean over
    all documents of its members, or over its members' means; whichever gives lm-eval's own figure.
    """
    if before.samples is None or after.samples is None:
        return
    ours = {leaf.task: leaf for leaf in before.samples.leaves}
    theirs = {leaf.task: leaf for leaf in after.samples.leaves}
    figures = {
        (result.task, metric.metric, metric.filter): metric.value
        for result in after.evaluation.results
        for metric in result.metrics
    }
    for result in before.evaluation.results:
        names = before.samples.groups.get(result.task, (result.task,))
        members = [(ours[name], theirs[name]) for name in names if name in ours and name in theirs]
        same = all(mine.documents == its.documents for mine, its in members)
        if len(members) < len(names) or not same:
            continue
        for metric in result.metrics:
            other = figures.get((result.task, metric.metric, metric.filter))
            strata = _strata(members, metric, other) if other is not None else None
            if strata is not None:
                yield result, metric, strata


def _strata(
    members: Sequence[tuple[TaskValues, TaskValues]], metric: TaskMetric, other: float
) -> tuple[Stratum, ...] | None:
    """The values of all members, weighted as both models' figures are; None where they are no such mean."""
    pairs = [(mine.of(metric), its.of(metric)) for mine, its in members]
    known = [(mine, its) for mine, its in pairs if mine is not None and its is not None]
    if len(known) < len(pairs):
        return None
    for strata in _weightings(known):
        ours = _gives(metric.value, [(one.weight, one.before) for one in strata])
        if ours and _gives(other, [(one.weight, one.after) for one in strata]):
            return strata
    return None


def _weightings(
    pairs: Sequence[tuple[tuple[float, ...], tuple[float, ...]]],
) -> Iterator[tuple[Stratum, ...]]:
    """The strata with weights by size, and with equal weights."""
    total = sum(len(mine) for mine, _ in pairs)
    yield tuple(Stratum(len(mine) / total, mine, its) for mine, its in pairs)
    yield tuple(Stratum(1 / len(pairs), mine, its) for mine, its in pairs)


def _gives(figure: float, parts: Sequence[tuple[float, Sequence[float]]]) -> bool:
    """Tell whether a figure is the weighted mean of the parts' means."""
    mean = math.fsum(weight * math.fsum(values) / len(values) for weight, values in parts)
    return math.isclose(mean, figure, rel_tol=CLOSE, abs_tol=CLOSE)
