"""A tournament takes the allocation that is best on text that pruning did not see."""

from typing import Literal

from pipeline.allocations.candidates import Candidate
from pipeline.allocations.contest import ContestAllocation
from pipeline.allocations.uniform import Uniform
from pipeline.canonical import Frozen


class Tournament(ContestAllocation):
    """The model is pruned under every candidate, and under uniform, with everything else as in the spec. The
    lowest perplexity on `samples` sequences of the calibration's source that calibration does not use wins;
    of equal ones, the first. Candidates with the same measure share the measurement, and pruning by the
    winner is not repeated.
    """

    kind: Literal["tournament"] = "tournament"

    @property
    def entrants(self) -> tuple[Candidate, ...]:
        """Uniform and the candidates, each once."""
        return tuple(dict.fromkeys((Uniform(), *self.candidates)))


class Score(Frozen):
    """The content of `score.json`: the mean loss over `tokens` predictions, in nats, and its exponential."""

    loss: float
    perplexity: float
    tokens: int


class Entry(Frozen):
    """A candidate with its perplexity on the held-out samples, and the sparsities of its blocks."""

    allocation: Candidate
    perplexity: float
    sparsity: tuple[float, ...]


class TournamentTable(Frozen):
    """The content of `tournament.json`. `winner`: its index in `entries`. `tokens`: the predicted ones."""

    entries: tuple[Entry, ...]
    winner: int
    tokens: int
