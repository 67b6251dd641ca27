"""SparseGPT prunes weights whose loss the others can compensate (Frantar and Alistarh, arXiv 2301.00774)."""

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from pipeline.methods.base import Choice, OneShotMethod
from pipeline.spec.patterns import NM, ComparisonGroup, Pattern
from pipeline.tensor.needs import Needs

if TYPE_CHECKING:
    from torch import Tensor

    from pipeline.tensor.statistics import LinearStatistics


class SparseGPT(OneShotMethod):
    """The saliency is w² / diag(U)², where U is the Cholesky factor of the inverse Hessian. The columns after
    a column compensate its error, column block by column block.

    With comparison_group `matrix` the original weights are scored; within column blocks and rows, the weights
    as the compensation of earlier errors has changed them.
    """

    kind: Literal["sparsegpt"] = "sparsegpt"
    damping: float = Field(
        default=0.01, gt=0, le=10, description="Added to the Hessian, as a fraction of its mean diagonal."
    )
    comparison_group: ClassVar[ComparisonGroup] = "column_block"

    @property
    def needs(self) -> Needs:
        """SparseGPT needs Hessians."""
        return frozenset({"hessian"})

    def choose(self, weight_OI: "Tensor", statistics: "LinearStatistics | None", pattern: Pattern) -> Choice:
        """See OneShotMethod. If the Hessian has no Cholesky factor, damping is raised tenfold, and the note
        says so."""
        from pipeline.tensor import masks, obs

        masks.check_finite(weight_OI, what="weights")
        if pattern.target == 0:
            return Choice(masks.all_kept(weight_OI), weight_OI.clone())
        assert statistics is not None
        assert statistics.hessian_II is not None
        factor = obs.inverse_factor(statistics.hessian_II, damping=self.damping)
        if isinstance(pattern, NM):
            pattern.check_in_features(weight_OI.shape[1])
            keep_OI, solved_OI = obs.prune_groups_by_obs(weight_OI, factor, pattern)
        else:
            group = pattern.comparison_group or self.comparison_group
            columns = weight_OI.shape[1]
            if group == "matrix":
                score_OI = obs.obs_score(weight_OI, factor)
                fixed_OI = masks.keep_by_saliency(score_OI, pattern, default_group=group)

            def keep(score_OC: "Tensor", first: int) -> "Tensor":
                if group == "matrix":
                    return fixed_OI[:, first : first + score_OC.shape[1]]
                return masks.keep_of_column_block(
                    score_OC, pattern, first=first, columns=columns, by_row=group == "row"
                )

            keep_OI, solved_OI = obs.prune_by_obs(
                weight_OI, factor, keep, column_block_size=pattern.column_block_size
            )
        return Choice(keep_OI, solved_OI.to(weight_OI.dtype), obs.damping_note(factor, self.damping))
