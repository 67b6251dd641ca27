"""The interface of all criteria."""

from typing import Protocol

from pipeline.canonical import Frozen
from pipeline.structure.expert_facts import ExpertFacts
from pipeline.structure.scores import ModelScores


class Known(Protocol):
    """The facts about a dense model that criteria may ask for. Nothing is read or measured before it is
    requested."""

    def shapes(self) -> ModelScores:
        """Returns zeros for everything that could be cut."""
        ...

    def magnitudes(self) -> ModelScores:
        """Returns the L2 norms of the weights."""
        ...

    def activations(self) -> ModelScores:
        """Returns L2 norms of activations, from calibration samples."""
        ...

    def influences(self) -> tuple[float, ...]:
        """Returns 1 - E[cos(input, output)] of each block, from calibration samples."""
        ...

    def experts(self) -> tuple[ExpertFacts | None, ...]:
        """Returns what the experts of each block give, from calibration samples; None for a block without
        experts."""
        ...


class CriterionBase(Frozen):
    """A rule that scores the importance of channels, heads and experts."""

    @property
    def needs_samples(self) -> bool:
        """Tells whether the rule needs activations."""
        return False

    def scores(self, known: Known) -> ModelScores:
        """Returns the scores of everything that could be cut; the parts with the largest scores stay."""
        raise AssertionError(f"{type(self).__name__} does not define its scores")
