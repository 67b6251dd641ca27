"""Scores by what flows through: Minitron's."""

from typing import Literal

from pipeline.structure.base import CriterionBase, Known
from pipeline.structure.scores import ModelScores


class Activation(CriterionBase):
    """Mean over calibration samples of the L2 norm over a sample's tokens (Minitron, arXiv 2407.14679, "mean
    over batch, L2 over sequence"): of a norm's output for hidden channels, averaged over blocks; of a head's
    output; of what the last linear of the MLP reads. Experts: how many tokens were routed to each."""

    kind: Literal["activation"] = "activation"

    @property
    def needs_samples(self) -> bool:
        """Always."""
        return True

    def scores(self, known: Known) -> ModelScores:
        """L2 norms of activations."""
        return known.activations()
