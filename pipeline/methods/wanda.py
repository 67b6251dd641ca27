"""Wanda: weight magnitude times input norm (Sun et al., arXiv 2306.11695)."""

from typing import TYPE_CHECKING, ClassVar, Literal

from pipeline.methods.base import MethodBase
from pipeline.patterns import ComparisonGroup

if TYPE_CHECKING:
    from torch import Tensor

    from pipeline.tensor.statistics import LinearStatistics


class Wanda(MethodBase):
    """Saliency |W|·norm_j, competing within an output row unless the pattern says otherwise."""

    kind: Literal["wanda"] = "wanda"
    needs_statistics: ClassVar[bool] = True
    comparison_group: ClassVar[ComparisonGroup] = "row"

    def saliency(self, weight_OI: "Tensor", statistics: "LinearStatistics | None") -> "Tensor":
        """|W_ij| · ||x_j||, float32 [O, I]."""
        assert statistics is not None, "the DAG gives statistics to methods that need them"
        return weight_OI.float().abs() * statistics.input_norm_I
