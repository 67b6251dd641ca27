"""Scores by the weights alone."""

from typing import Literal

from pipeline.structure.base import CriterionBase, Known
from pipeline.structure.scores import ModelScores


class Magnitude(CriterionBase):
    """The L2 norm of all weights that belong to a channel, head or expert: those that write it and those that
    read it. No calibration is needed."""

    kind: Literal["magnitude"]

    def scores(self, known: Known) -> ModelScores:
        """Returns L2 norms."""
        return known.magnitudes()
