"""Several allocations, and the one that is best on text that pruning did not see."""

from typing import Literal

from pipeline.allocations.candidates import Candidate
from pipeline.allocations.contest import ContestAllocation
from pipeline.allocations.uniform import Uniform
from pipeline.canonical import Frozen


class Tournament(ContestAllocation):
    """The model is pruned under every candidate, and under uniform, as the spec says in all else; the lowest
    perplexity on `samples` sequences that the calibration's source holds beside its own wins, at equal ones
    the first. Candidates that measure the same share the measurement, and pruning by the winner is not done
    again.
    """

    kind: Literal["tournament"] = "tournament"

    @property
    def entrants(self) -> tuple[Candidate, ...]:
        """Uniform first, each once."""
        return tuple(dict.fromkeys((Uniform(), *self.candidates)))


class Score(Frozen):
    """Content of `score.json`: mean loss in nats over so many predicted `tokens`, and its exponential."""

    loss: float
    perplexity: float
    tokens: int


class Entry(Frozen):
    """A candidate with its perplexity on the held-out samples, and the sparsities of its blocks."""

    allocation: Candidate
    perplexity: float
    sparsity: tuple[float, ...]


class TournamentTable(Frozen):
    """Content of `tournament.json`. `winner`: its place among the entries. `tokens`: that were predicted."""

    entries: tuple[Entry, ...]
    winner: int
    tokens: int
