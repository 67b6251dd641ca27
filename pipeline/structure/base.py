"""What every criterion is to the rest of the system."""

from typing import Protocol

from pipeline.canonical import Frozen
from pipeline.structure.scores import ModelScores


class Known(Protocol):
    """What can be known of a dense model. Nothing is read or measured before it is asked for."""

    def shapes(self) -> ModelScores:
        """Zeros for everything that could be cut."""
        ...

    def magnitudes(self) -> ModelScores:
        """L2 norms of the weights."""
        ...

    def activations(self) -> ModelScores:
        """L2 norms of activations, from calibration samples."""
        ...

    def influences(self) -> tuple[float, ...]:
        """By block, 1 - E[cos(input, output)]; from calibration samples."""
        ...


class CriterionBase(Frozen):
    """A rule that says how much channels, heads and experts matter."""

    @property
    def needs_samples(self) -> bool:
        """Whether it looks at activations."""
        return False

    def scores(self, known: Known) -> ModelScores:
        """Of everything that could be cut; larger stays longer."""
        raise AssertionError(f"{type(self).__name__} does not define its scores")
