"""ATP gives sparsities in arithmetic progression: later blocks are sparser (ICML 2025)."""

from typing import Literal

from pydantic import Field

from pipeline.allocations.base import CandidateAllocation
from pipeline.allocations.levels import nm_plan, unstructured_plan
from pipeline.errors import InvalidSpec
from pipeline.spec.patterns import NM, Pattern
from pipeline.spec.sparsity_plan import SparsityPlan, Weights


class Atp(CandidateAllocation):
    """Block b of B gets sparsity s_b = s + step·(b - (B - 1)/2). `step` is the paper's β, which a few trials
    find: 0.005 to 0.01 for models of 30 blocks."""

    kind: Literal["atp"] = "atp"
    step: float = Field(
        default=0.005, ge=0, lt=1, description="How much sparser each block is than the last."
    )

    def check(self, pattern: Pattern, *, blocks: int | None) -> None:
        """Raise InvalidSpec for a step beyond the paper's bound: no block below 0 or above 1."""
        if blocks is None or blocks == 1:
            return
        largest = 2 * min(pattern.target, 1 - pattern.target) / (blocks - 1)
        if self.step > largest:
            raise InvalidSpec(
                f"step={self.step} takes {blocks} blocks at a mean of {pattern.target:g} out of [0, 1]; "
                f"lower it to {largest:.6f} or less",
                "spec.prune.allocation.step",
            )

    def plan(self, pattern: Pattern, weights: Weights, *, measured: tuple[float, ...] = ()) -> SparsityPlan:
        """See CandidateAllocation: the progression."""
        self.check(pattern, blocks=len(weights))
        shifts = [self.step * (block - (len(weights) - 1) / 2) for block in range(len(weights))]
        if isinstance(pattern, NM):
            return nm_plan(
                pattern, [-shift * pattern.group for shift in shifts], field="step", value=self.step
            )
        return unstructured_plan(pattern, [pattern.sparsity + shift for shift in shifts], weights)
