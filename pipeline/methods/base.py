"""What every method is to the rest of the system."""

from typing import TYPE_CHECKING, ClassVar

from pipeline.canonical import Frozen
from pipeline.patterns import ComparisonGroup, Pattern

if TYPE_CHECKING:
    from torch import Tensor

    from pipeline.tensor.statistics import LinearStatistics


class MethodBase(Frozen):
    """Shape legend: O out_features, I in_features.

    `needs_statistics`: whether calibration is run. `comparison_group`: the method's own, used where the
    pattern leaves it open.
    """

    needs_statistics: ClassVar[bool]
    comparison_group: ClassVar[ComparisonGroup]

    def check(self, pattern: Pattern) -> None:
        """Raise InvalidSpec for patterns that the method cannot follow. Most follow every pattern."""

    def saliency(self, weight_OI: "Tensor", statistics: "LinearStatistics | None") -> "Tensor":
        """Importance of each weight, float32 [O, I]; the smallest are pruned."""
        raise AssertionError(f"{type(self).__name__} does not define its saliency")

    def keep(self, saliency_OI: "Tensor", pattern: Pattern) -> "Tensor":
        """Which weights stay, bool [O, I]: the most salient of each comparison group."""
        from pipeline.tensor.masks import keep_by_saliency

        return keep_by_saliency(saliency_OI, pattern, default_group=self.comparison_group)

    def choose(
        self, weight_OI: "Tensor", statistics: "LinearStatistics | None", pattern: Pattern
    ) -> "tuple[Tensor, Tensor]":
        """keep, bool [O, I], and the weights' new values, [O, I] in the weight's dtype.

        `statistics`: of the linear's input, None for methods that need none. This one ranks weights by their
        saliency and leaves the values of the kept ones as they are, to the bit; solvers override it.

        Raises NumericalError for saliencies that are not finite, InvalidSpec when the pattern does not fit.
        """
        self.check(pattern)
        keep_OI = self.keep(self.saliency(weight_OI, statistics), pattern)
        return keep_OI, weight_OI.masked_fill(~keep_OI, 0)
