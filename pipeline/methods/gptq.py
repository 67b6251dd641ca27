"""GPTQ as the walk over the blocks applies it: it rounds the weights that are left, and chooses no mask."""

from typing import TYPE_CHECKING, ClassVar, Literal

from pipeline.methods.base import Choice, OneShotMethod
from pipeline.spec.patterns import ComparisonGroup, Pattern
from pipeline.spec.quantization import Gptq, check_groups
from pipeline.tensor.needs import Needs

if TYPE_CHECKING:
    from torch import Tensor

    from pipeline.tensor.statistics import LinearStatistics


class GptqRounding(OneShotMethod):
    """See Gptq, whose settings `form` are. Zeros of the weight stay zero, and the pattern says nothing.

    The new weights are multiples of the scales that the weights had before (tensor/rounding.py), rounded to
    the type of the weights. That error is less than half a step, so the codes can be told from them.
    """

    kind: Literal["gptq"] = "gptq"
    form: Gptq
    comparison_group: ClassVar[ComparisonGroup] = "row"  # never used: nothing competes

    @property
    def needs(self) -> Needs:
        """GPTQ needs Hessians."""
        return frozenset({"hessian"})

    def choose(self, weight_OI: "Tensor", statistics: "LinearStatistics | None", pattern: Pattern) -> Choice:
        """See OneShotMethod. If the Hessian has no Cholesky factor, damping is raised tenfold, and the note
        says so. Raises InvalidSpec for rows that do not divide into groups."""
        from pipeline.tensor import masks, obs, rounding

        masks.check_finite(weight_OI, what="weights")
        check_groups(self.form.group_size, weight_OI.shape[1])
        assert statistics is not None
        assert statistics.hessian_II is not None
        factor = obs.inverse_factor(statistics.hessian_II, damping=self.form.damping)
        scale_OG = rounding.integer_scales(weight_OI, bits=self.form.bits, group_size=self.form.group_size)
        rounded_OI = rounding.round_by_obs(weight_OI, factor, scale_OG, bits=self.form.bits)
        note = obs.damping_note(factor, self.form.damping)
        return Choice(weight_OI != 0, rounded_OI.to(weight_OI.dtype), note)
