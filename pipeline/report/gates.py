"""Gates: sentences about the figures of a report that decide whether a result is promoted.

    METRIC OP BOUND      perplexity <= 1.2 * dense      arc_easy.acc_norm >= dense - 0.02

METRIC is `perplexity` (every text must hold), `perplexity.<text>`, `sparsity`, `<task>` (its main metric) or
`<task>.<metric>`, each of the published model; OP is <=, <, >= or >; BOUND is a number, or relative to the
dense model's figure: `dense`, `1.2 * dense`, `dense - 0.02`, `0.9 * dense + 1`.
"""

import difflib
import math
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Annotated

from pydantic import AfterValidator, Field, model_validator

from pipeline.canonical import Frozen
from pipeline.evaluation.task_comparison import TaskComparison
from pipeline.evaluation.task_results import MAIN_METRICS
from pipeline.report.data import Summary

GRAMMAR = (
    "write METRIC OP BOUND, such as `perplexity <= 1.2 * dense` or `arc_easy >= dense - 0.02`; METRIC: "
    "perplexity, perplexity.<text>, sparsity, <task> or <task>.<metric>; OP: <=, <, >=, >; BOUND: a number, "
    "dense, <number> * dense, either of them + or - a number"
)
PERPLEXITY, SPARSITY = "perplexity", "sparsity"
MAX_GATE = 200
NUMBER = r"(?:[0-9]{1,15}(?:\.[0-9]{0,15})?|\.[0-9]{1,15})(?:[eE][+-]?[0-9]{1,2})?"
SENTENCE = re.compile(r"(?P<metric>[^<>=]+?)\s*(?P<op><=|>=|<|>)\s*(?P<bound>[^<>=]+)")
FIXED = re.compile(rf"[+-]?{NUMBER}")
RELATIVE = re.compile(rf"(?:(?P<factor>{NUMBER})\s*\*\s*)?dense(?:\s*(?P<sign>[+-])\s*(?P<offset>{NUMBER}))?")
HOLDS: Mapping[str, Callable[[Decimal, Decimal], bool]] = {
    "<=": lambda value, bound: value <= bound,
    "<": lambda value, bound: value < bound,
    ">=": lambda value, bound: value >= bound,
    ">": lambda value, bound: value > bound,
}


@dataclass(frozen=True)
class Gate:
    """A parsed gate: `metric` `op` factor * dense + offset. `factor` is None where the bound is a number."""

    text: str
    metric: str
    op: str
    factor: Decimal | None
    offset: Decimal


class Verdict(Frozen):
    """The outcome of a gate. Its figures are None when nothing was measured; if a gate has several readings,
    they are those of the reading nearest to failing.

    `final`: the figure of the published model, which is pruned, or recovered where it was trained.
    """

    gate: str
    metric: str
    final: float | None = None
    dense: float | None = None
    bound: float | None = None
    passed: bool
    reason: str

    @model_validator(mode="before")
    @classmethod
    def _older(cls, given: object) -> object:
        """Rename the field `pruned` of verdicts that were stored before there was training."""
        if isinstance(given, dict) and "pruned" in given:
            return {("final" if name == "pruned" else name): value for name, value in given.items()}
        return given


def parse(text: str) -> Gate:
    """Read a gate from its text. Raises ValueError that shows the grammar."""
    text = " ".join(text.split())
    sentence = SENTENCE.fullmatch(text)
    if sentence is None:
        raise ValueError(f"got {text!r}; {GRAMMAR}")
    metric, op, bound = sentence["metric"], sentence["op"], sentence["bound"]
    if FIXED.fullmatch(bound):
        return Gate(text=text, metric=metric, op=op, factor=None, offset=Decimal(bound))
    relative = RELATIVE.fullmatch(bound)
    if relative is None:
        raise ValueError(f"{bound!r} in {text!r} is no bound; {GRAMMAR}")
    if metric == SPARSITY:
        raise ValueError(f"{text!r}: the dense model has no sparsity to compare with; write a number")
    offset = Decimal((relative["sign"] or "") + (relative["offset"] or "0"))
    return Gate(text=text, metric=metric, op=op, factor=Decimal(relative["factor"] or "1"), offset=offset)


def check_gate(gate: Gate, summary: Summary) -> Verdict:
    """Check a gate against a report's summary. A gate whose metric was not measured does not pass."""
    readings = [reading for reading in _readings(summary) if gate.metric in reading.names]
    if not readings:
        names = list(dict.fromkeys(name for reading in _readings(summary) for name in reading.names))
        measured = ", ".join(names) or "nothing"
        reason = f"{gate.metric} was not measured{_meant(gate.metric, names)}; measured: {measured}"
        return Verdict(gate=gate.text, metric=gate.metric, passed=False, reason=reason)
    return min((_compare(gate, reading) for reading in readings), key=lambda pair: pair[0])[1]


def check_measured(
    gate: Gate, *, texts: Collection[str], tasks: Collection[str], sparse: bool = True
) -> None:
    """Raise ValueError when nothing would measure the gate's metric.

    `texts`: labels of the perplexity texts; `tasks`: names of the eval tasks; `sparse`: True if zeros are
    made. The members of a group are not known before it is evaluated, so with the task `mmlu` a gate on
    `mmlu_anatomy` is accepted.
    """
    zeros = (SPARSITY,) if sparse else ()
    of_texts = (PERPLEXITY, *(f"{PERPLEXITY}.{text}" for text in texts)) if texts else ()
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


def _gate_text(value: str) -> str:
    return parse(value).text


GateText = Annotated[str, Field(max_length=MAX_GATE), AfterValidator(_gate_text)]


@dataclass(frozen=True)
class _Reading:
    """One figure, with the names that gates may use for it. `name` is the shortest that means no other."""

    name: str
    names: tuple[str, ...]
    final: float
    dense: float | None


def _readings(summary: Summary) -> Iterator[_Reading]:
    for text in summary.perplexity:
        name = f"{PERPLEXITY}.{text.name}"
        yield _Reading(name, (PERPLEXITY, name), text.final, text.dense)
    if summary.achieved_sparsity is not None:
        yield _Reading(SPARSITY, (SPARSITY,), summary.achieved_sparsity, None)
    own = {row.task for row in summary.tasks}
    for row in summary.tasks:
        names = [f"{row.task}.{row.metric}", f"{row.task}.{row.metric},{row.filter}"]
        if row is _main([other for other in summary.tasks if other.task == row.task]):
            names.insert(0, row.task)
            if row.group is not None and row.group not in own:
                names.insert(0, row.group)  # a group without a mean: every one of its tasks must hold
        yield _Reading(f"{row.task}.{row.metric}", tuple(names), row.final, row.dense)


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


def _may_be_of(metric: str, task: str) -> bool:
    return metric == task or metric.startswith((f"{task}.", f"{task}_"))


def _meant(name: str, known: Collection[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {near[0]!r}?" if near else ""
