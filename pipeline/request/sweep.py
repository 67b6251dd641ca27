"""Sweeps: one job that prunes a model in many ways and compares them."""

from collections.abc import Iterator
from itertools import product
from typing import Annotated, Self

from pydantic import Field, model_validator

from pipeline.allocations import Allocation
from pipeline.canonical import Frozen
from pipeline.methods import OneShot
from pipeline.spec.patterns import AskedPattern, Pattern, Unstructured
from pipeline.spec.sparsity_plan import with_sparsity

MAX_MEMBERS = 64
AXES = ("methods", "allocations", "patterns", "sparsities")


class Sweep(Frozen):
    """Every combination of the listed values replaces the same fields of `prune` and makes a member; an axis
    that is left out keeps the value in `prune`. `sparsities` go with unstructured patterns; an N:M pattern
    has its own sparsity and makes one member.

    Members share all work that does not depend on their differences. With `propagation: dense` that is the
    whole calibration: one sweep over the dense model measures all statistics that any of the methods needs.
    """

    methods: tuple[OneShot, ...] = Field(default=(), max_length=MAX_MEMBERS)
    allocations: tuple[Allocation, ...] = Field(default=(), max_length=MAX_MEMBERS)
    patterns: tuple[AskedPattern, ...] = Field(default=(), max_length=MAX_MEMBERS)
    sparsities: tuple[Annotated[float, Field(ge=0, lt=1)], ...] = Field(default=(), max_length=MAX_MEMBERS)

    @model_validator(mode="after")
    def _each_once(self) -> Self:
        for axis in AXES:
            values = getattr(self, axis)
            twice = [value for i, value in enumerate(values) if value in values[:i]]
            if twice:
                raise ValueError(f"{axis} names {_short(twice[0])} twice; each member is made once")
        if not any(getattr(self, axis) for axis in AXES):
            raise ValueError(f"nothing is varied: list values under {', '.join(AXES)}")
        return self

    def crossed(
        self, method: OneShot, allocation: Allocation, pattern: Pattern
    ) -> Iterator[tuple[OneShot, Allocation, Pattern]]:
        """All members, patterns varying slowest. The arguments are the values in `prune`. Raises ValueError
        for sparsities without an unstructured pattern."""
        patterns = list(dict.fromkeys(self._patterns(pattern)))
        for kept, how, spread in product(
            patterns, self.methods or (method,), self.allocations or (allocation,)
        ):
            yield how, spread, kept

    def _patterns(self, asked: Pattern) -> Iterator[Pattern]:
        listed = self.patterns or (asked,)
        if self.sparsities and not any(isinstance(pattern, Unstructured) for pattern in listed):
            raise ValueError("sparsities go with unstructured patterns, and there is none; leave them out")
        for pattern in listed:
            if isinstance(pattern, Unstructured) and self.sparsities:
                yield from (with_sparsity(pattern, sparsity) for sparsity in self.sparsities)
            else:
                yield pattern


def _short(value: object) -> str:
    return str(getattr(value, "kind", value))
