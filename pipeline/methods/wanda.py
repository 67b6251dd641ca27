"""Wanda: weight magnitude times input norm (Sun et al., arXiv 2306.11695)."""

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from pipeline.errors import InvalidSpec
from pipeline.methods.base import RankingMethod
from pipeline.spec.patterns import NM, ComparisonGroup, Pattern
from pipeline.tensor.needs import Needs

if TYPE_CHECKING:
    from torch import Tensor

    from pipeline.tensor.statistics import LinearStatistics


class Wanda(RankingMethod):
    """The saliency is |W|·norm_j. Weights compete within an output row unless the pattern says otherwise.

    `variant`: every row of a matrix loses the same share of its saliency, instead of the same count.
    """

    kind: Literal["wanda"] = "wanda"
    variant: bool = Field(default=False, description="Same share of saliency pruned per row, not same count.")
    comparison_group: ClassVar[ComparisonGroup] = "row"

    @property
    def needs(self) -> Needs:
        """Wanda needs input norms."""
        return frozenset({"input_norm"})

    def check(self, pattern: Pattern) -> None:
        """Raise InvalidSpec if the variant meets a pattern that is not unstructured and by row."""
        if not self.variant:
            return
        if isinstance(pattern, NM):
            got = f"pattern NM({pattern.keep},{pattern.group})"
        elif pattern.comparison_group in ("matrix", "column_block"):
            got = f"pattern.comparison_group={pattern.comparison_group}"
        else:
            return
        raise InvalidSpec(
            f"method.variant=true finds one share of saliency for all rows of a matrix, got {got}; set "
            f"variant to false, or use an unstructured pattern with comparison_group row or left out",
            "spec.prune.method.variant",
        )

    def saliency(self, weight_OI: "Tensor", statistics: "LinearStatistics | None") -> "Tensor":
        """See RankingMethod: |W_ij| · ||x_j||."""
        assert statistics is not None, "the DAG gives statistics to methods that need them"
        return weight_OI.abs().float().mul_(statistics.input_norm_I)

    def keep(self, saliency_OI: "Tensor", pattern: Pattern) -> "Tensor":
        """The keep tensor, bool [O, I]. The variant has its own selection."""
        from pipeline.tensor.masks import keep_by_row_share

        if self.variant and not isinstance(pattern, NM):
            return keep_by_row_share(saliency_OI, pattern)
        return super().keep(saliency_OI, pattern)
