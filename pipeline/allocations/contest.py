"""Contests choose among allocations: the model is pruned under each entrant, and the best plan is taken. They
need stages of their own."""

from abc import abstractmethod

from pydantic import Field

from pipeline.allocations.base import AllocationBase
from pipeline.allocations.candidates import Candidate
from pipeline.allocations.measures import Measure
from pipeline.spec.patterns import Pattern

MAX_CANDIDATES = 32


class ContestAllocation(AllocationBase):
    """An allocation that takes the plan of the entrant with the lowest perplexity on `samples` held-out
    sequences of the calibration's source."""

    kind: str
    candidates: tuple[Candidate, ...] = Field(min_length=1, max_length=MAX_CANDIDATES)
    samples: int = Field(default=16, ge=1, le=10_000, description="Held-out sequences.")

    @property
    @abstractmethod
    def entrants(self) -> tuple[Candidate, ...]:
        """The allocations that the model is pruned under, each once."""

    @property
    def measures(self) -> tuple[Measure, ...]:
        """The measures that the entrants need, each once."""
        return tuple(dict.fromkeys(measure for one in self.entrants for measure in one.measures))

    def check(self, pattern: Pattern, *, blocks: int | None) -> None:
        """Check every candidate."""
        for candidate in self.candidates:
            candidate.check(pattern, blocks=blocks)
