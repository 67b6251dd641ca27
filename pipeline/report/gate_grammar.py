"""Gates: sentences about the figures of a report that decide whether a result is promoted.

    METRIC OP BOUND [at LEVEL%]
    perplexity <= 1.2 * dense      arc_easy.acc_norm >= dense - 0.02      sciq >= dense - 0.01 at 95%

METRIC is `perplexity` (every text must hold), `perplexity.<text>`, `sparsity`, `<task>` (its main metric) or
`<task>.<metric>`, each of the published model; OP is <=, <, >= or >; BOUND is a number, or relative to the
dense model's figure: `dense`, `1.2 * dense`, `dense - 0.02`, `0.9 * dense + 1`.

With a LEVEL of 90, 95 or 99, the gate holds only if the data show it with that confidence: BOUND is `dense`,
or `dense` + or - a number, and the difference, final minus dense, is compared not by its value but by its
one-sided bound of the paired bootstrap (evaluation/paired.py). `sciq >= dense - 0.01 at 95%` holds if the
difference is at least -0.01 with 95 % confidence: its lower bound is not below -0.01. `<=` and `<` take the
upper bound. So a small difference on few documents is not enough. A figure without paired data (no mean
over documents, other windows, fewer than ten of them) does not hold either, and the reason says so.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Annotated

from pydantic import AfterValidator, Field

from pipeline.evaluation.difference import LEVELS, Level

GRAMMAR = (
    "write METRIC OP BOUND, such as `perplexity <= 1.2 * dense` or `arc_easy >= dense - 0.02`; METRIC: "
    "perplexity, perplexity.<text>, sparsity, <task> or <task>.<metric>; OP: <=, <, >=, >; BOUND: a number, "
    "dense, <number> * dense, either of them + or - a number; and behind dense + or - a number, `at 95%` (or "
    "90, 99) for a confidence, as in `arc_easy >= dense - 0.01 at 95%`"
)
PERPLEXITY, SPARSITY = "perplexity", "sparsity"
MAX_GATE = 200
NUMBER = r"(?:[0-9]{1,15}(?:\.[0-9]{0,15})?|\.[0-9]{1,15})(?:[eE][+-]?[0-9]{1,2})?"
SENTENCE = re.compile(
    r"(?P<metric>[^<>=]+?)\s*(?P<op><=|>=|<|>)\s*(?P<bound>[^<>=]+?)(?:\s+at (?P<level>[0-9.]+) ?%)?"
)
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
    """A parsed gate: `metric` `op` factor * dense + offset. `factor` is None where the bound is a number.
    `level`: the confidence in percent; None where the figures themselves are compared."""

    text: str
    metric: str
    op: str
    factor: Decimal | None
    offset: Decimal
    level: Level | None = None


def parse(text: str) -> Gate:
    """Read a gate from its text. Raises ValueError that shows the grammar."""
    text = " ".join(text.split())
    sentence = SENTENCE.fullmatch(text)
    if sentence is None:
        raise ValueError(f"got {text!r}; {GRAMMAR}")
    metric, op, bound = sentence["metric"], sentence["op"], sentence["bound"]
    level = _level(text, sentence["level"])
    if level is not None and (RELATIVE.fullmatch(bound) is None or "*" in bound):
        raise ValueError(
            f"{text!r}: a confidence needs a bound of dense, or dense + or - a number; {GRAMMAR}"
        )
    if FIXED.fullmatch(bound):
        return Gate(text=text, metric=metric, op=op, factor=None, offset=Decimal(bound))
    relative = RELATIVE.fullmatch(bound)
    if relative is None:
        raise ValueError(f"{bound!r} in {text!r} is no bound; {GRAMMAR}")
    if metric == SPARSITY:
        raise ValueError(f"{text!r}: the dense model has no sparsity to compare with; write a number")
    offset = Decimal((relative["sign"] or "") + (relative["offset"] or "0"))
    factor = Decimal(relative["factor"] or "1")
    return Gate(text=text, metric=metric, op=op, factor=factor, offset=offset, level=level)


def _level(text: str, given: str | None) -> Level | None:
    for level in LEVELS:
        if given == str(level):
            return level
    if given is not None:
        allowed = ", ".join(f"{level}%" for level in LEVELS)
        raise ValueError(f"{given}% in {text!r} is no confidence; write at one of {allowed}")
    return None


def _gate_text(value: str) -> str:
    return parse(value).text


GateText = Annotated[str, Field(max_length=MAX_GATE), AfterValidator(_gate_text)]
