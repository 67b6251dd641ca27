"""Scores by activations (Minitron)."""

from typing import Literal

from pipeline.structure.base import CriterionBase, Known
from pipeline.structure.scores import ModelScores


class Activation(CriterionBase):
    """The mean over calibration samples of the L2 norm over a sample's tokens (Minitron, arXiv 2407.14679,
    "mean over batch, L2 over sequence"). Hidden channels are scored by the outputs of norms, averaged over
    blocks; heads by their outputs; FFN channels by the input of the MLP's last linear; experts by the number
    of tokens that were routed to them."""

    kind: Literal["activation"] = "activation"

    @property
    def needs_samples(self) -> bool:
        """Always true."""
        return True

    def scores(self, known: Known) -> ModelScores:
        """Returns L2 norms of activations."""
        return known.activations()
