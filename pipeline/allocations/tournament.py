"""Several allocations, and the one that is best on text that pruning did not see."""

from typing import Annotated, Literal

from pydantic import Field

from pipeline.allocations.base import AllocationBase
from pipeline.allocations.candidates import Candidate
from pipeline.allocations.measures import Measure
from pipeline.allocations.uniform import Uniform
from pipeline.canonical import Frozen
from pipeline.spec.patterns import Pattern

LARGEST = 32


class Tournament(AllocationBase):
    """The model is pruned under every candidate, and under uniform, as the spec says in all else; the lowest
    perplexity on `samples` sequences that the calibration's source holds beside its own wins, at equal ones
    the first. Candidates that measure the same share the measurement, and pruning by the winner is not done
    again.
    """

    kind: Literal["tournament"] = "tournament"
    candidates: tuple[Annotated[Candidate, Field(discriminator="kind")], ...] = Field(
        min_length=1, max_length=LARGEST
    )
    samples: int = Field(default=16, ge=1, le=10_000, description="Held-out sequences.")

    @property
    def entrants(self) -> tuple[Candidate, ...]:
        """Uniform first, each once."""
        return tuple(dict.fromkeys((Uniform(), *self.candidates)))

    @property
    def measures(self) -> tuple[Measure, ...]:
        """What the candidates want to know, each once."""
        return tuple(dict.fromkeys(measure for one in self.candidates for measure in one.measures))

    def check(self, pattern: Pattern, *, blocks: int | None) -> None:
        """Every candidate's."""
        for candidate in self.candidates:
            candidate.check(pattern, blocks=blocks)


class Score(Frozen):
    """Content of `score.json`: mean loss in nats over so many predicted `tokens`, and its exponential."""

    loss: float
    perplexity: float
    tokens: int


class Entry(Frozen):
    """A candidate with its perplexity on the held-out samples, and the sparsities of its blocks."""

    allocation: Annotated[Candidate, Field(discriminator="kind")]
    perplexity: float
    sparsity: tuple[float, ...]


class TournamentTable(Frozen):
    """Content of `tournament.json`. `winner`: its place among the entries. `tokens`: that were predicted."""

    entries: tuple[Entry, ...]
    winner: int
    tokens: int
