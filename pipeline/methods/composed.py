"""A composed method takes the mask from one method and the weights from another."""

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field

from pipeline.canonical import Frozen
from pipeline.methods.base import Choice, OneShotMethod
from pipeline.methods.single import Single
from pipeline.methods.wanda import Wanda
from pipeline.spec.patterns import ComparisonGroup, Pattern
from pipeline.tensor.needs import Needs

if TYPE_CHECKING:
    from torch import Tensor

    from pipeline.tensor.statistics import LinearStatistics


class ObsUpdate(Frozen):
    """SparseGPT's update: column by column, the kept weights to the right compensate the errors."""

    kind: Literal["obs"] = "obs"
    damping: float = Field(default=0.01, gt=0, le=10)

    def weights(self, weight_OI: "Tensor", keep_OI: "Tensor", statistics: "LinearStatistics") -> Choice:
        """Compute new values of the kept weights."""
        from pipeline.tensor import obs

        assert statistics.hessian_II is not None
        factor = obs.inverse_factor(statistics.hessian_II, damping=self.damping)
        _, solved_OI = obs.prune_by_obs(
            weight_OI,
            factor,
            lambda score_OC, first: keep_OI[:, first : first + score_OC.shape[1]],
            column_block_size=obs.COLUMN_BLOCK_SIZE,
        )
        return Choice(keep_OI, solved_OI.to(weight_OI.dtype), obs.damping_note(factor, self.damping))


class AdmmUpdate(Frozen):
    """ADMM's update: the kept weights solve the linear's least squares (arXiv 2401.02938)."""

    kind: Literal["admm"] = "admm"
    iterations: int = Field(default=20, ge=1, le=1000)
    damping: float = Field(default=0.1, gt=0, le=10)

    def weights(self, weight_OI: "Tensor", keep_OI: "Tensor", statistics: "LinearStatistics") -> Choice:
        """Compute new values of the kept weights."""
        from pipeline.tensor.admm import least_squares, refit

        assert statistics.hessian_II is not None
        squares = least_squares(statistics.hessian_II, samples=statistics.samples, damping=self.damping)
        _, solved_OI = refit(
            weight_OI, squares, lambda size_OI, iteration: keep_OI, iterations=self.iterations
        )
        return Choice(keep_OI, solved_OI.to(weight_OI.dtype))


Update = Annotated[ObsUpdate | AdmmUpdate, Field(discriminator="kind")]


class Composed(OneShotMethod):
    """`mask_from` chooses the weights that stay, `update` computes their new values. The update starts from
    the model's own values, even if the method of `mask_from` computes new ones."""

    kind: Literal["composed"] = "composed"
    mask_from: Single = Wanda()
    update: Update = AdmmUpdate()
    comparison_group: ClassVar[ComparisonGroup] = "row"  # never used: `mask_from` has its own

    @property
    def needs(self) -> Needs:
        """A composed method needs Hessians beside the statistics for the mask."""
        return self.mask_from.needs | {"hessian"}

    def check(self, pattern: Pattern) -> None:
        """The patterns are those of the method that gives the mask."""
        self.mask_from.check(pattern)

    def choose(self, weight_OI: "Tensor", statistics: "LinearStatistics | None", pattern: Pattern) -> Choice:
        """See OneShotMethod."""
        assert statistics is not None
        given = self.mask_from.choose(weight_OI, statistics, pattern)
        if pattern.target == 0:
            return given
        updated = self.update.weights(weight_OI, given.keep_OI, statistics)
        notes = dict.fromkeys(note for note in (given.note, updated.note) if note)
        return updated._replace(note="; ".join(notes) or None)
