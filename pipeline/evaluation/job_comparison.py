"""The figures of several jobs side by side, each under one contract, with paired differences to the first."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from pipeline.canonical import Frozen
from pipeline.evaluation.comparison import compare
from pipeline.evaluation.contracts import OWN, check_same_contract, unrecorded
from pipeline.evaluation.difference import PairedDifference
from pipeline.evaluation.task_comparison import compare_tasks
from pipeline.evaluation.task_pairs import paired_tasks
from pipeline.evaluation.task_results import TaskEvaluation
from pipeline.evaluation.task_samples import Judged
from pipeline.spec.eval_tasks import Suite
from pipeline.spec.evaluation import EvaluationResult


@dataclass(frozen=True)
class JobFigures:
    """What a job measured on its dense and on its final model, pruned or recovered. `suite`: the suite that
    its spec asks for. `own_tokenizer`: True if its final model cuts texts into other tokens than the dense
    one."""

    job: str
    dense: EvaluationResult
    final: EvaluationResult
    dense_tasks: tuple[Judged, ...] = ()
    final_tasks: tuple[Judged, ...] = ()
    suite: Suite | None = None
    own_tokenizer: bool = False

    @property
    def names(self) -> list[str]:
        """The texts and tasks that were evaluated."""
        texts = [f"text {result.name}" for result in self.final.perplexity]
        return [*texts, *(f"task {judged.evaluation.task}" for judged in self.final_tasks)]


class FigureDifference(Frozen):
    """The figure of a later job minus that of the first. `paired`: how certain it is; None where it cannot be
    told, because the figure is no mean over documents, windows differ, or there are fewer than ten."""

    value: float
    paired: PairedDifference | None = None


class ComparedFigure(Frozen):
    """One figure of all jobs. `name`: of the text or task; `metric`: `perplexity`, or one of the task's.
    `dense`: the dense model's figure, if the jobs agree on it. `values`: the final models' figures, in the
    order of the jobs; `differences`: of each job but the first. `main`: True if short tables show it."""

    kind: Literal["text", "task"]
    name: str
    metric: str
    filter: str = "none"
    per: Literal["token", "byte"] | None = None
    higher_is_better: bool | None
    main: bool
    dense: float | None
    values: tuple[float, ...]
    differences: tuple[FigureDifference, ...]


class JobComparison(Frozen):
    """The figures on what all jobs were evaluated on, texts first. `left_out`: texts and tasks that some job
    was not evaluated on. `not_recorded`: by job, the fields of contracts that were not recorded when its
    figures were measured, and so were not compared."""

    figures: tuple[ComparedFigure, ...]
    left_out: tuple[str, ...]
    not_recorded: dict[str, tuple[str, ...]]


def compare_jobs(jobs: Sequence[JobFigures]) -> JobComparison:
    """Compare the final models of two or more jobs. Raises UnequalContracts that names the text or task, the
    fields and the jobs.

    Perplexities of jobs that cut the vocabulary are compared by the byte. All else in a contract must be
    equal, the device too.
    """
    names = [name for name in jobs[0].names if all(name in job.names for job in jobs)]
    left_out = dict.fromkeys(name for job in jobs for name in job.names if name not in names)
    shared = [_only(job, names) for job in jobs]
    by_byte = any(job.own_tokenizer for job in jobs)
    missing: dict[str, set[str]] = {}
    for job in shared[1:]:
        for one, other in _contracts(shared[0], job, but=OWN if by_byte else frozenset()):
            missing.setdefault(one, set()).update(other)
    return JobComparison(
        figures=(*_texts(shared, by_byte=by_byte), *_tasks(shared, by_byte=by_byte)),
        left_out=tuple(left_out),
        not_recorded={job: tuple(sorted(fields)) for job, fields in missing.items() if fields},
    )


def _only(job: JobFigures, names: Sequence[str]) -> JobFigures:
    """The job's figures on these texts and tasks, in this order."""

    def texts(result: EvaluationResult) -> EvaluationResult:
        by_name = {f"text {one.name}": one for one in result.perplexity}
        kept = tuple(by_name[name] for name in names if name in by_name)
        return result.model_copy(update={"perplexity": kept})

    def tasks(judged: Sequence[Judged]) -> tuple[Judged, ...]:
        by_name = {f"task {one.evaluation.task}": one for one in judged}
        return tuple(by_name[name] for name in names if name in by_name)

    return replace(
        job,
        dense=texts(job.dense),
        final=texts(job.final),
        dense_tasks=tasks(job.dense_tasks),
        final_tasks=tasks(job.final_tasks),
    )


def _contracts(
    first: JobFigures, other: JobFigures, *, but: frozenset[str]
) -> Iterator[tuple[str, frozenset[str]]]:
    """Check all contracts. Yield each job with the fields that it has not recorded and the other one has."""
    pairs: list[tuple[str, Frozen, Frozen]] = [
        (f"perplexity on {one.name!r}", one.contract, its.contract)
        for one, its in zip(first.final.perplexity, other.final.perplexity, strict=True)
    ]
    for one, its in zip(first.final_tasks, other.final_tasks, strict=True):
        theirs = {result.task: result.contract for result in its.evaluation.results}
        pairs += [
            (f"task {result.task!r}", result.contract, theirs[result.task])
            for result in one.evaluation.results
            if result.task in theirs
        ]
    for what, ours, its_own in pairs:
        check_same_contract(ours, its_own, other.job, what, but=but, against=first.job)
        for field in unrecorded(ours, its_own):
            yield (first.job if getattr(ours, field) is None else other.job), frozenset({field})


def _texts(jobs: Sequence[JobFigures], *, by_byte: bool) -> Iterator[ComparedFigure]:
    own = [compare(job.dense, job.final, own_tokenizers=by_byte) for job in jobs]
    across = [compare(jobs[0].final, job.final, own_tokenizers=by_byte) for job in jobs[1:]]
    for i, first in enumerate(own[0]):
        rows = [compared[i] for compared in own]
        yield ComparedFigure(
            kind="text",
            name=first.name,
            metric="perplexity",
            per=first.per,
            higher_is_better=False,
            main=True,
            dense=_agreed([row.dense for row in rows]),
            values=tuple(row.final for row in rows),
            differences=tuple(
                FigureDifference(value=compared[i].final - compared[i].dense, paired=compared[i].paired)
                for compared in across
            ),
        )


def _tasks(jobs: Sequence[JobFigures], *, by_byte: bool) -> Iterator[ComparedFigure]:
    suites = {job.suite for job in jobs}
    suite = suites.pop() if len(suites) == 1 else None
    own = [
        compare_tasks(_plain(job.dense_tasks), _plain(job.final_tasks), suite=suite, own_tokenizers=by_byte)
        for job in jobs
    ]
    across = [
        compare_tasks(
            _plain(jobs[0].final_tasks),
            _plain(job.final_tasks),
            pairs=paired_tasks(jobs[0].final_tasks, job.final_tasks, suite=suite),
            suite=suite,
            own_tokenizers=by_byte,
        )
        for job in jobs[1:]
    ]
    for i, first in enumerate(own[0]):
        rows = [compared[i] for compared in own]
        yield ComparedFigure(
            kind="task",
            name=first.task,
            metric=first.metric,
            filter=first.filter,
            higher_is_better=first.higher_is_better,
            main=first.main,
            dense=_agreed([row.dense for row in rows]),
            values=tuple(row.final for row in rows),
            differences=tuple(
                FigureDifference(value=compared[i].difference, paired=compared[i].paired)
                for compared in across
            ),
        )


def _plain(judged: Sequence[Judged]) -> list[TaskEvaluation]:
    return [one.evaluation for one in judged]


def _agreed(values: Sequence[float]) -> float | None:
    return values[0] if len(set(values)) == 1 else None
