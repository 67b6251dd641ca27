"""ADMM finds support and weights together, fitted to the linear's outputs (Boža, arXiv 2401.02938)."""

from typing import TYPE_CHECKING, ClassVar, Literal, Self

from pydantic import Field, model_validator

from pipeline.methods.base import Choice, OneShotMethod
from pipeline.spec.patterns import NM, ComparisonGroup, Pattern
from pipeline.tensor.needs import Needs

if TYPE_CHECKING:
    from torch import Tensor

    from pipeline.tensor.statistics import LinearStatistics


class Admm(OneShotMethod):
    """ADMM with a gradually sparser support: sparsity grows along a cubic over the first
    `support_iterations`. The saliency is |V + U|, the scaled weights plus the scaled dual variable. (For a
    fixed support use method `composed` with update `admm`.)"""

    kind: Literal["admm"] = "admm"
    iterations: int = Field(default=20, ge=1, le=1000)
    support_iterations: int = Field(default=15, ge=1, le=1000)
    damping: float = Field(
        default=0.1,
        gt=0,
        le=10,
        description="Added to the scaled Gram matrix, as a fraction of its mean diagonal.",
    )
    comparison_group: ClassVar[ComparisonGroup] = "matrix"

    @model_validator(mode="after")
    def _support_is_final(self) -> Self:
        if self.support_iterations > self.iterations:
            raise ValueError(
                f"support_iterations={self.support_iterations} leaves the support unfinished after "
                f"iterations={self.iterations}; lower it to {self.iterations} or less"
            )
        return self

    @property
    def needs(self) -> Needs:
        """ADMM needs Hessians."""
        return frozenset({"hessian"})

    def choose(self, weight_OI: "Tensor", statistics: "LinearStatistics | None", pattern: Pattern) -> Choice:
        """See OneShotMethod."""
        from pipeline.tensor import masks
        from pipeline.tensor.admm import least_squares, refit

        masks.check_finite(weight_OI, what="weights")
        if pattern.target == 0:
            return Choice(masks.all_kept(weight_OI), weight_OI.clone())
        assert statistics is not None
        assert statistics.hessian_II is not None
        settled: list[Tensor] = []

        def support(size_OI: "Tensor", iteration: int) -> "Tensor":
            if iteration < self.support_iterations:
                share = 1 - (1 - (iteration + 1) / self.support_iterations) ** 3
                settled[:] = [self._support(size_OI, pattern, share)]
            return settled[0]

        squares = least_squares(statistics.hessian_II, samples=statistics.samples, damping=self.damping)
        keep_OI, solved_OI = refit(weight_OI, squares, support, iterations=self.iterations)
        return Choice(keep_OI, solved_OI.to(weight_OI.dtype))

    def _support(self, size_OI: "Tensor", pattern: Pattern, share: float) -> "Tensor":
        """The keep tensor at this share of the pattern's zeros, rounded per group for N:M."""
        from pipeline.tensor import masks

        if not isinstance(pattern, NM):
            pattern = pattern.model_copy(update={"sparsity": pattern.sparsity * share})
            return masks.keep_by_saliency(size_OI, pattern, default_group=self.comparison_group)
        pattern.check_in_features(size_OI.shape[1])
        zeros = round((pattern.group - pattern.keep) * share)
        return masks.keep_of_groups(size_OI, keep=pattern.group - zeros, group=pattern.group)
