"""What a job's result will gain in each target that its spec names."""

from collections.abc import Iterator, Mapping

from pydantic import JsonValue

from pipeline.architecture.row import Architecture
from pipeline.canonical import Frozen
from pipeline.serving.gains import TABLE_VERSION, Form, Gain, gain_of
from pipeline.serving.shapes import slower_with
from pipeline.serving.weights import read_weights
from pipeline.spec.patterns import Pattern, Unstructured
from pipeline.spec.targets import SecateurSparse, Target
from pipeline.structure.sizes import Sizes


class Expectation(Frozen):
    """One target. `facts`: the rows of the table for the forms of this job. `weights`: the share of the
    weights that generating a token still reads, without zeros that the target skips; `speed`: about how many
    times as many tokens a second that makes, where reading weights is what takes the time. `notes`: what else
    the sizes mean there."""

    target: str
    table_version: int = TABLE_VERSION
    facts: tuple[Gain, ...]
    weights: float
    speed: float
    notes: tuple[str, ...] = ()

    @property
    def lines(self) -> tuple[str, ...]:
        """The expectation in sentences."""
        facts = [f"{fact.form} gains {fact.gains}: {fact.why}" for fact in self.facts]
        reads = f"a token reads {self.weights:.0%} of the weights, at best {self.speed:g} times as fast"
        return tuple(f"{self.target}: {line}" for line in (*facts, reads, *self.notes))


def expected(
    targets: tuple[Target, ...],
    row: Architecture,
    config: Mapping[str, JsonValue],
    *,
    old: Sizes,
    new: Sizes,
    pattern: Pattern | None,
) -> Iterator[Expectation]:
    """One expectation for each target. `config`: config.json of the dense model. `pattern`: that of the
    zeros, None where nothing is pruned."""
    forms = tuple(_forms(old, new, pattern))
    share = read_weights(row, config, new) / read_weights(row, config, old)
    for target in targets:
        read = share
        if isinstance(target, SecateurSparse) and pattern is not None:
            head = new.vocab_size * new.hidden_size / read_weights(row, config, old)
            read = head + (share - head) * (1 - pattern.target)
        yield Expectation(
            target=target.kind,
            facts=tuple(gain_of(target.kind, form) for form in forms),
            weights=round(read, 4),
            speed=round(1 / read, 2),
            notes=tuple(slower_with(target, new)),
        )


def _forms(old: Sizes, new: Sizes, pattern: Pattern | None) -> Iterator[Form]:
    if pattern is not None:
        yield "unstructured" if isinstance(pattern, Unstructured) else "nm"
    if new.vocab_size != old.vocab_size:
        yield "smaller vocabulary"
    if new.model_copy(update={"vocab_size": old.vocab_size}) != old:
        yield "smaller sizes"
