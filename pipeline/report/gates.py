"""Gates are held against the figures of a report, or against what a template will measure.

`gate_grammar.py` says what a gate may be and when it holds.
"""

import difflib
import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal

from pydantic import model_validator

from pipeline.canonical import Frozen
from pipeline.evaluation.difference import PairedDifference
from pipeline.evaluation.task_comparison import TaskComparison
from pipeline.evaluation.task_results import MAIN_METRICS
from pipeline.report.data import Summary
from pipeline.report.gate_grammar import HOLDS, PERPLEXITY, SPARSITY, Gate


class Verdict(Frozen):
    """The outcome of a gate. Its figures are None when nothing was measured; if a gate has several readings,
    they are those of the reading nearest to failing.

    `final`: the figure of the published model, which is pruned, or recovered where it was trained. `certain`:
    for a gate with a level, the value that the final figure does not pass with that confidence, dense plus
    the one-sided bound of the difference.
    """

    gate: str
    metric: str
    final: float | None = None
    dense: float | None = None
    bound: float | None = None
    certain: float | None = None
    passed: bool
    reason: str

    @model_validator(mode="before")
    @classmethod
    def _older(cls, given: object) -> object:
        """Rename the field `pruned` of verdicts that were stored before there was training."""
        if isinstance(given, dict) and "pruned" in given:
            return {("final" if name == "pruned" else name): value for name, value in given.items()}
        return given


def check_gate(gate: Gate, summary: Summary) -> Verdict:
    """Check a gate against a report's summary. A gate whose metric was not measured does not pass."""
    readings = [reading for reading in _readings(summary) if gate.metric in reading.names]
    if not readings:
        names = list(dict.fromkeys(name for reading in _readings(summary) for name in reading.names))
        measured = ", ".join(names) or "nothing"
        reason = f"{gate.metric} was not measured{_meant(gate.metric, names)}; measured: {measured}"
        return Verdict(gate=gate.text, metric=gate.metric, passed=False, reason=reason)
    judge = _compare if gate.level is None else _compare_surely
    return min((judge(gate, reading) for reading in readings), key=lambda pair: pair[0])[1]


def check_measured(
    gate: Gate,
    *,
    texts: Collection[str],
    tasks: Collection[str],
    sparse: bool = True,
    own_tokenizers: bool = False,
) -> None:
    """Raise ValueError when nothing would measure the gate's metric.

    `texts`: labels of the perplexity texts; `tasks`: names of the eval tasks; `sparse`: True if zeros are
    made; `own_tokenizers`: True if the models cut texts into other tokens, so that their windows cannot be
    paired. The members of a group are not known before it is evaluated, so with the task `mmlu` a gate on
    `mmlu_anatomy` is accepted.
    """
    zeros = (SPARSITY,) if sparse else ()
    of_texts = (PERPLEXITY, *(f"{PERPLEXITY}.{text}" for text in texts)) if texts else ()
    if gate.level is not None and own_tokenizers and gate.metric in of_texts:
        raise ValueError(
            f"{gate.text!r}: a job that cuts the vocabulary cuts texts into other windows, so perplexities "
            f"have no confidence; leave out `at {gate.level}%`"
        )
    if gate.metric in (*zeros, *of_texts) or any(_may_be_of(gate.metric, task) for task in tasks):
        return
    if gate.metric == PERPLEXITY:
        raise ValueError(
            f"{gate.text!r}: the template measures no perplexity; add a text to spec.evaluation.perplexity"
        )
    known = (*of_texts, *tasks, *zeros)
    raise ValueError(
        f"{gate.text!r}: the template does not measure {gate.metric}{_meant(gate.metric, known)}; it "
        f"measures {', '.join(known) or 'nothing'}, and what is added to spec.evaluation"
    )


@dataclass(frozen=True)
class _Reading:
    """One figure, with the names that gates may use for it. `name` is the shortest that means no other."""

    name: str
    names: tuple[str, ...]
    final: float
    dense: float | None
    paired: PairedDifference | None = None


def _readings(summary: Summary) -> Iterator[_Reading]:
    for text in summary.perplexity:
        name = f"{PERPLEXITY}.{text.name}"
        yield _Reading(name, (PERPLEXITY, name), text.final, text.dense, text.paired)
    if summary.achieved_sparsity is not None:
        yield _Reading(SPARSITY, (SPARSITY,), summary.achieved_sparsity, None)
    own = {row.task for row in summary.tasks}
    for row in summary.tasks:
        names = [f"{row.task}.{row.metric}", f"{row.task}.{row.metric},{row.filter}"]
        if row is _main([other for other in summary.tasks if other.task == row.task]):
            names.insert(0, row.task)
            if row.group is not None and row.group not in own:
                names.insert(0, row.group)  # a group without a mean: every one of its tasks must hold
        yield _Reading(f"{row.task}.{row.metric}", tuple(names), row.final, row.dense, row.paired)


def _main(rows: Sequence[TaskComparison]) -> TaskComparison:
    """The main metric of a task; members of a group that has a mean are not marked as such."""
    marked = [row for row in rows if row.main]
    named = [row for name in MAIN_METRICS for row in rows if row.metric == name]
    unfiltered = [row for row in named if row.metric == named[0].metric and row.filter == "none"]
    return (marked or unfiltered or named or list(rows))[0]


def _compare(gate: Gate, reading: _Reading) -> tuple[Decimal, Verdict]:
    """Return the slack of a reading, which is negative if the gate fails, and the verdict.

    Figures are compared as decimals: 0.58 is not below 0.6 - 0.02, as it would be in binary.
    """
    final = Decimal(repr(reading.final))
    bound = gate.offset
    if gate.factor is not None:
        assert reading.dense is not None, "only sparsity has no dense figure, and parse refuses that"
        bound += gate.factor * Decimal(repr(reading.dense))
    passed = HOLDS[gate.op](final, bound)
    metric = reading.name
    slack = bound - final if gate.op in ("<=", "<") else final - bound
    against = f"{bound:.6g}"
    if gate.factor is not None:
        against += f" = {gate.text.partition(gate.op)[2].strip()}"
    verdict = Verdict(
        gate=gate.text,
        metric=metric,
        final=reading.final,
        dense=reading.dense,
        bound=float(bound) if math.isfinite(float(bound)) else None,
        passed=passed,
        reason=f"{metric} {reading.final:.6g} is {'' if passed else 'not '}{gate.op} {against}",
    )
    return (slack if passed else min(slack, Decimal(-1))), verdict


def _compare_surely(gate: Gate, reading: _Reading) -> tuple[Decimal, Verdict]:
    """The same for a gate with a level, by the one-sided bound of the difference."""
    assert gate.level is not None, "the caller has looked"
    assert reading.dense is not None, "parse refuses a level for what has no dense figure"
    dense, paired = Decimal(repr(reading.dense)), reading.paired
    bound = dense + gate.offset
    if paired is None:
        reason = (
            f"{reading.name} has no paired interval (it is no mean over documents, windows differ, or there "
            f"are fewer than ten), so nothing is known at {gate.level}%"
        )
        verdict = Verdict(
            gate=gate.text,
            metric=reading.name,
            final=reading.final,
            dense=reading.dense,
            bound=float(bound),
            passed=False,
            reason=reason,
        )
        return Decimal("-Infinity"), verdict
    sides = paired.at(gate.level)
    upwards = gate.op in ("<=", "<")
    side, at = (sides.upper, "at most") if upwards else (sides.lower, "at least")
    change = Decimal(f"{side:.12g}")  # a share of documents as written: -0.01 for one of a hundred
    passed = HOLDS[gate.op](change, gate.offset)
    slack = gate.offset - change if upwards else change - gate.offset
    verdict = Verdict(
        gate=gate.text,
        metric=reading.name,
        final=reading.final,
        dense=reading.dense,
        bound=float(bound),
        certain=float(dense + change),
        passed=passed,
        reason=(
            f"{reading.name} differs by {paired.value:+.4g}, with {gate.level}% confidence by {at} "
            f"{change:+.4g}, which is {'' if passed else 'not '}{gate.op} {gate.offset:+.4g}"
        ),
    )
    return (slack if passed else min(slack, Decimal(-1))), verdict


def _may_be_of(metric: str, task: str) -> bool:
    return metric == task or metric.startswith((f"{task}.", f"{task}_"))


def _meant(name: str, known: Collection[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {near[0]!r}?" if near else ""
