"""RIA: relative importance and activations (Zhang et al., ICLR 2024)."""

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from pipeline.methods.base import RankingMethod
from pipeline.spec.patterns import ComparisonGroup
from pipeline.tensor.needs import Needs

if TYPE_CHECKING:
    from torch import Tensor

    from pipeline.tensor.statistics import LinearStatistics


class Ria(RankingMethod):
    """The saliency is (|W_ij| / Σ_i |W_ij| + |W_ij| / Σ_j |W_ij|) · norm_j^power. It has a weight's shares of
    its column and of its row, so that no input or output channel is pruned as a whole."""

    kind: Literal["ria"] = "ria"
    power: float = Field(default=0.5, ge=0, le=4, description="Exponent of the input norm.")
    comparison_group: ClassVar[ComparisonGroup] = "row"

    @property
    def needs(self) -> Needs:
        """RIA needs input norms."""
        return frozenset({"input_norm"})

    def saliency(self, weight_OI: "Tensor", statistics: "LinearStatistics | None") -> "Tensor":
        """See RankingMethod. Shares of a column or row of zeros count as 0."""
        assert statistics is not None, "the DAG gives statistics to methods that need them"
        size_OI = weight_OI.float().abs()
        columns_I, rows_O1 = size_OI.sum(dim=0), size_OI.sum(dim=1, keepdim=True)
        shares_OI = size_OI / columns_I.where(columns_I != 0, 1) + size_OI / rows_O1.where(rows_O1 != 0, 1)
        return shares_OI * statistics.input_norm_I**self.power
