"""What every method is to the rest of the system."""

from typing import TYPE_CHECKING, ClassVar, NamedTuple

from pipeline.canonical import Frozen
from pipeline.spec.patterns import ComparisonGroup, Pattern
from pipeline.tensor.needs import Needs

if TYPE_CHECKING:
    from torch import Tensor

    from pipeline.tensor.statistics import LinearStatistics


class Choice(NamedTuple):
    """keep, bool [O, I]; the weights' values, [O, I], zero where not kept; what the report has to tell."""

    keep_OI: "Tensor"
    weight_OI: "Tensor"
    note: str | None = None


class MethodBase(Frozen):
    """Shape legend: O out_features, I in_features.

    `comparison_group`: the method's own, used where the pattern leaves it open.
    """

    comparison_group: ClassVar[ComparisonGroup]

    @property
    def needs(self) -> Needs:
        """What calibration has to measure of each linear's input."""
        return frozenset()

    def check(self, pattern: Pattern) -> None:
        """Raise InvalidSpec for patterns that the method cannot follow. Most follow every pattern."""

    def saliency(self, weight_OI: "Tensor", statistics: "LinearStatistics | None") -> "Tensor":
        """Importance of each weight, float32 [O, I]; the smallest are pruned."""
        raise AssertionError(f"{type(self).__name__} does not define its saliency")

    def keep(self, saliency_OI: "Tensor", pattern: Pattern) -> "Tensor":
        """Which weights stay, bool [O, I]: the most salient of each comparison group."""
        from pipeline.tensor.masks import keep_by_saliency

        return keep_by_saliency(saliency_OI, pattern, default_group=self.comparison_group)

    def choose(self, weight_OI: "Tensor", statistics: "LinearStatistics | None", pattern: Pattern) -> Choice:
        """Decide one linear. `statistics`: of its input, with what `needs` names; None for none.

        This one ranks weights by their saliency and leaves the values of the kept ones as they are, to the
        bit; solvers override it. A sparsity of 0 leaves everything as it is.

        Raises NumericalError for what is not finite, InvalidSpec when the pattern does not fit.
        """
        from pipeline.tensor.masks import zeroed

        self.check(pattern)
        keep_OI = self.keep(self.saliency(weight_OI, statistics), pattern)
        return Choice(keep_OI, zeroed(weight_OI, keep_OI))
