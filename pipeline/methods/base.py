"""The base classes of methods, each with the functions that its methods have to define."""

from abc import abstractmethod
from typing import TYPE_CHECKING, ClassVar, NamedTuple

from pipeline.canonical import Frozen
from pipeline.spec.patterns import ComparisonGroup, Pattern
from pipeline.tensor.needs import Needs

if TYPE_CHECKING:
    from torch import Tensor

    from pipeline.tensor.statistics import LinearStatistics


class Choice(NamedTuple):
    """The result of pruning a linear: keep, bool [O, I]; weights, [O, I], zero where not kept; and a note for
    the report."""

    keep_OI: "Tensor"
    weight_OI: "Tensor"
    note: str | None = None


class MethodBase(Frozen):
    """The part of a method that specs and the DAG use, whatever kind of method it is."""

    @property
    def needs(self) -> Needs:
        """The statistics of each linear's input that calibration has to measure."""
        return frozenset()

    def check(self, pattern: Pattern) -> None:
        """Raise InvalidSpec for patterns that the method cannot follow. Most follow every pattern."""


class OneShotMethod(MethodBase):
    """A method that prunes one linear at a time. Shape legend: O out_features, I in_features.

    `comparison_group`: the method's default, which is used where the pattern gives none.
    """

    comparison_group: ClassVar[ComparisonGroup]

    @abstractmethod
    def choose(self, weight_OI: "Tensor", statistics: "LinearStatistics | None", pattern: Pattern) -> Choice:
        """Choose which weights of a linear stay, and their values. `statistics`: those of its input that
        `needs` names; None if it names none. A sparsity of 0 leaves all weights as they are.

        Raises NumericalError for values that are not finite, InvalidSpec when the pattern does not fit.
        """


class RankingMethod(OneShotMethod):
    """A method that ranks weights by a saliency and leaves the kept ones as they are, to the bit."""

    @abstractmethod
    def saliency(self, weight_OI: "Tensor", statistics: "LinearStatistics | None") -> "Tensor":
        """The importance of each weight, float32 [O, I]; the smallest are pruned."""

    def keep(self, saliency_OI: "Tensor", pattern: Pattern) -> "Tensor":
        """The keep tensor, bool [O, I]: the most salient weights of each comparison group stay."""
        from pipeline.tensor.masks import keep_by_saliency

        return keep_by_saliency(saliency_OI, pattern, default_group=self.comparison_group)

    def choose(self, weight_OI: "Tensor", statistics: "LinearStatistics | None", pattern: Pattern) -> Choice:
        """Keep the most salient weights. See OneShotMethod."""
        from pipeline.tensor.masks import zeroed

        self.check(pattern)
        keep_OI = self.keep(self.saliency(weight_OI, statistics), pattern)
        return Choice(keep_OI, zeroed(weight_OI, keep_OI))
