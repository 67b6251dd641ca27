"""DSnoT grows and drops weights until a mask hardly shifts the expected outputs (Zhang et al., arXiv
2310.08915)."""

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from pipeline.methods.base import Choice, OneShotMethod
from pipeline.methods.ranking import Ranking
from pipeline.methods.wanda import Wanda
from pipeline.spec.patterns import NM, ComparisonGroup, Pattern
from pipeline.tensor.needs import Needs

if TYPE_CHECKING:
    from torch import Tensor

    from pipeline.tensor.statistics import LinearStatistics


class Dsnot(OneShotMethod):
    """DSnoT starts from another method's mask and exchanges single weights within rows (or groups of N:M).

    `threshold`: rows whose expected shift is at most this are not changed.
    """

    kind: Literal["dsnot"] = "dsnot"
    mask_from: Ranking = Wanda()
    cycles: int = Field(default=50, ge=1, le=10_000, description="Exchanges per row, at most.")
    threshold: float = Field(default=0.1, ge=0, allow_inf_nan=False)
    comparison_group: ClassVar[ComparisonGroup] = "row"

    @property
    def needs(self) -> Needs:
        """DSnoT needs norms, means and variances of inputs beside the statistics for the mask."""
        return self.mask_from.needs | {"input_norm", "input_mean"}

    def check(self, pattern: Pattern) -> None:
        """The patterns are those of the method that gives the mask."""
        self.mask_from.check(pattern)

    def choose(self, weight_OI: "Tensor", statistics: "LinearStatistics | None", pattern: Pattern) -> Choice:
        """See OneShotMethod. The values of kept weights stay as they are, to the bit."""
        from pipeline.tensor.masks import zeroed
        from pipeline.tensor.swap import swap

        assert statistics is not None
        keep_OI = swap(
            weight_OI,
            self.mask_from.choose(weight_OI, statistics, pattern).keep_OI,
            statistics,
            cycles=self.cycles,
            threshold=self.threshold,
            group=pattern.group if isinstance(pattern, NM) else None,
        )
        return Choice(keep_OI, zeroed(weight_OI, keep_OI))
