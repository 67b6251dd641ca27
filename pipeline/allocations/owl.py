"""OWL keeps blocks with more outliers denser (Yin et al., arXiv 2310.05175).

r_b is the outlier ratio of block b. Its position p_b = (r_b - min r)/(max r - min r) lies in [0, 1]. The
block's density is the spec's plus 2·spread·(p_b - mean p), so that the mean over blocks is the spec's.
"""

from typing import Literal

from pydantic import Field

from pipeline.allocations.base import CandidateAllocation, check_measured
from pipeline.allocations.levels import nm_plan, unstructured_plan
from pipeline.allocations.measures import OutlierRatio
from pipeline.errors import InvalidSpec
from pipeline.spec.patterns import NM, Pattern, Unstructured
from pipeline.spec.sparsity_plan import SparsityPlan, Weights, with_sparsity


class Owl(CandidateAllocation):
    """A block's density grows linearly with its outlier ratio.

    `multiplier` (the paper's M): a weight is an outlier when its saliency |W|·norm exceeds M times the
    block's mean; the saliency is Wanda's for every method. `spread` (the paper's λ): unstructured densities
    span 2λ. `nm_spread`: with N:M, the kept weights per group span this many. `scope: linear`: each linear
    has its own mean, ratio and sparsity (the published code has one of each per block).
    """

    kind: Literal["owl"] = "owl"
    multiplier: float = Field(default=5, gt=0, allow_inf_nan=False)
    spread: float = Field(default=0.08, ge=0, lt=0.5)
    nm_spread: float = Field(default=2, ge=0, allow_inf_nan=False)
    scope: Literal["block", "linear"] = "block"

    @property
    def measure(self) -> OutlierRatio:
        """OWL needs outlier ratios."""
        return OutlierRatio(multiplier=self.multiplier, scope=self.scope)

    def check(self, pattern: Pattern, *, blocks: int | None) -> None:
        """Raise InvalidSpec if scope `linear` meets a pattern that gives linears no count of their own."""
        if self.scope == "linear" and (isinstance(pattern, NM) or pattern.rounding == "floor"):
            raise InvalidSpec(
                f"scope=linear gives every linear a sparsity of its own, which pattern {pattern.kind} with "
                f"rounding {pattern.rounding} has no place for; use scope block, or an unstructured pattern "
                f"with rounding exact",
                "spec.prune.allocation.scope",
            )

    def plan(self, pattern: Pattern, weights: Weights, *, measured: tuple[float, ...] = ()) -> SparsityPlan:
        """See CandidateAllocation. `measured`: outlier ratios in percent, per block or per linear. Equal ones
        give the uniform plan and a note. Raises InfeasiblePlan when N:M leaves its range."""
        self.check(pattern, blocks=len(weights))
        if self.scope == "linear":
            assert isinstance(pattern, Unstructured)
            return self._by_linear(pattern, weights, measured)
        check_measured(measured, len(weights), what="outlier ratios")
        return self._planned(pattern, weights, measured)

    def _planned(self, pattern: Pattern, weights: Weights, ratios: tuple[float, ...]) -> SparsityPlan:
        notes: tuple[str, ...] = ()
        if min(ratios) == max(ratios):
            finding = f"every {self.scope} has the outlier ratio {ratios[0]:.4g} %"
            notes = (f"{finding}: nothing to tell apart, the plan is uniform",)
        if isinstance(pattern, NM):
            plan = nm_plan(pattern, _shifts(ratios, self.nm_spread), field="nm_spread", value=self.nm_spread)
        else:
            # This is the published order of operations: the last bits decide where a count is rounded down.
            wanted = [1 - (shift + (1 - pattern.sparsity)) for shift in _shifts(ratios, 2 * self.spread)]
            plan = unstructured_plan(pattern, wanted, weights)
        return plan.model_copy(update={"notes": (*notes, *plan.notes)})

    def _by_linear(self, pattern: Unstructured, weights: Weights, ratios: tuple[float, ...]) -> SparsityPlan:
        """Plan as if every linear were a block, and put the linears of each block together."""
        alone = [{name: count} for block in weights for name, count in block.items()]
        check_measured(ratios, len(alone), what="outlier ratios")
        plan = self._planned(pattern, alone, ratios)
        found = iter(plan.zeros)
        zeros = tuple({name: next(found)[name] for name in block} for block in weights)
        shares = [sum(z.values()) / sum(block.values()) for z, block in zip(zeros, weights, strict=True)]
        return SparsityPlan(
            asked=plan.asked,
            blocks=tuple(with_sparsity(pattern, share) for share in shares),
            notes=plan.notes,
            zeros=zeros,
        )


def _shifts(ratios: tuple[float, ...], span: float) -> list[float]:
    """The shift span·(p - mean p) of each ratio; 0 where all ratios are equal."""
    low, high = min(ratios), max(ratios)
    scale = 1 / (high - low) * span if high > low else 0.0
    scaled = [(ratio - low) * scale for ratio in ratios]
    mean = sum(scaled) / len(scaled)
    return [value - mean for value in scaled]
