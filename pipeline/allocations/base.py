"""The base classes of allocations, each with the functions that its allocations have to define; and checks of
measured values."""

import math
from abc import abstractmethod

from pipeline.allocations.measures import Measure
from pipeline.canonical import Frozen
from pipeline.errors import InvalidSpec, NumericalError
from pipeline.spec.patterns import Pattern
from pipeline.spec.sparsity_plan import SparsityPlan, Weights

FIELD = "spec.prune.allocation"


class AllocationBase(Frozen):
    """The part of an allocation that specs and the DAG use, whatever kind of allocation it is."""

    @property
    @abstractmethod
    def measures(self) -> tuple[Measure, ...]:
        """The measures of the dense model that have to be taken first, each once."""

    def check(self, pattern: Pattern, *, blocks: int | None) -> None:
        """Raise InvalidSpec for mistakes that can be found before anything runs. `blocks`: the model's number
        of blocks, if known."""


class CandidateAllocation(AllocationBase):
    """A rule that turns the spec's sparsity into one pattern per block by itself. Contests can take it."""

    @property
    def measure(self) -> Measure | None:
        """The measure of the dense model that has to be taken first; None for none."""
        return None

    @property
    def measures(self) -> tuple[Measure, ...]:
        """The one measure, if there is one."""
        return () if self.measure is None else (self.measure,)

    @abstractmethod
    def plan(self, pattern: Pattern, weights: Weights, *, measured: tuple[float, ...] = ()) -> SparsityPlan:
        """The plan for a model. `weights`: the number of weights per block and linear. `measured`: the values
        of `measure` per block, or per linear in their order.

        Raises InfeasiblePlan when the budget cannot be met, NumericalError for measures that are not finite.
        """


def check_measured(measured: tuple[float, ...], expected: int, *, what: str) -> None:
    """Raise InvalidSpec for too many or too few values, NumericalError if one is not finite."""
    if len(measured) != expected:
        raise InvalidSpec(f"{len(measured)} {what} where {expected} are needed; give one each", FIELD)
    if not all(math.isfinite(value) for value in measured):
        raise NumericalError(f"{what} are not finite: {measured}; check weights and calibration texts")


def positions(measured: tuple[float, ...]) -> list[float] | None:
    """The position of each value between the smallest and the largest, in [0, 1]; None when all are equal."""
    low, high = min(measured), max(measured)
    if low == high:
        return None
    scale = 1 / (high - low)
    return [(value - low) * scale for value in measured]
