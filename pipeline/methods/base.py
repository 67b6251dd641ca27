"""The kinds of one-shot methods, by what each of them has to define."""

from abc import abstractmethod
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
    """The part of a method that specs and the DAG ask for, whatever kind of method it is."""

    @property
    def needs(self) -> Needs:
        """What calibration has to measure of each linear's input."""
        return frozenset()

    def check(self, pattern: Pattern) -> None:
        """Raise InvalidSpec for patterns that the method cannot follow. Most follow every pattern."""


class OneShotMethod(MethodBase):
    """A method that decides one linear at a time. Shape legend: O out_features, I in_features.

    `comparison_group`: the method's own, used where the pattern leaves it open.
    """

    comparison_group: ClassVar[ComparisonGroup]

    @abstractmethod
    def choose(self, weight_OI: "Tensor", statistics: "LinearStatistics | None", pattern: Pattern) -> Choice:
        """Decide one linear. `statistics`: of its input, with what `needs` names; None for none. A sparsity
        of 0 leaves everything as it is.

        Raises NumericalError for what is not finite, InvalidSpec when the pattern does not fit.
        """


class RankingMethod(OneShotMethod):
    """A method that ranks weights by a saliency and leaves the kept ones as they are, to the bit."""

    @abstractmethod
    def saliency(self, weight_OI: "Tensor", statistics: "LinearStatistics | None") -> "Tensor":
        """Importance of each weight, float32 [O, I]; the smallest are pruned."""

    def keep(self, saliency_OI: "Tensor", pattern: Pattern) -> "Tensor":
        """Which weights stay, bool [O, I]: the most salient of each comparison group."""
        from pipeline.tensor.masks import keep_by_saliency

        return keep_by_saliency(saliency_OI, pattern, default_group=self.comparison_group)

    def choose(self, weight_OI: "Tensor", statistics: "LinearStatistics | None", pattern: Pattern) -> Choice:
        """Keep the most salient weights; see OneShotMethod."""
        from pipeline.tensor.masks import zeroed

        self.check(pattern)
        keep_OI = self.keep(self.saliency(weight_OI, statistics), pattern)
        return Choice(keep_OI, zeroed(weight_OI, keep_OI))
