"""Magnitude pruning removes the smallest weights (Han et al., 2015)."""

from typing import TYPE_CHECKING, ClassVar, Literal

from pipeline.methods.base import RankingMethod
from pipeline.spec.patterns import ComparisonGroup

if TYPE_CHECKING:
    from torch import Tensor

    from pipeline.tensor.statistics import LinearStatistics


class Magnitude(RankingMethod):
    """The saliency is |W|. Weights compete within the whole matrix unless the pattern says otherwise."""

    kind: Literal["magnitude"] = "magnitude"
    comparison_group: ClassVar[ComparisonGroup] = "matrix"

    def saliency(self, weight_OI: "Tensor", statistics: "LinearStatistics | None") -> "Tensor":
        """|W| in float32."""
        return weight_OI.abs().float()
