"""What every allocation is to the rest of the system."""

from pipeline.canonical import Frozen
from pipeline.patterns import Pattern
from pipeline.plan import SparsityPlan


class AllocationBase(Frozen):
    """A rule that turns the spec's sparsity into one pattern per block."""

    @property
    def outlier_multiplier(self) -> float | None:
        """The multiple of the mean above which a saliency is an outlier; None: outliers are not measured."""
        return None

    def check(self, pattern: Pattern, *, blocks: int | None) -> None:
        """Raise InvalidSpec for what can be known before anything runs. `blocks`: of the model, if known."""

    def plan(self, pattern: Pattern, *, blocks: int, outlier_ratios: tuple[float, ...]) -> SparsityPlan:
        """The plan for `blocks` decoder blocks. `outlier_ratios`: percent per block, empty if not needed.

        Raises InfeasiblePlan when a block would leave the pattern's range.
        """
        raise AssertionError(f"{type(self).__name__} does not define its plan")
