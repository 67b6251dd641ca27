"""OWL: blocks with more outliers stay denser (Yin et al., arXiv 2310.05175)."""

import math
from typing import Literal

from pydantic import Field

from pipeline.allocations.base import AllocationBase
from pipeline.errors import InfeasiblePlan, InvalidSpec, NumericalError
from pipeline.patterns import NM, Pattern, Unstructured
from pipeline.plan import SparsityPlan, with_keep, with_sparsity


class Owl(AllocationBase):
    """Density of a block grows linearly with its outlier ratio.

    `multiplier` (the paper's M): a weight is an outlier when its saliency |W|·norm exceeds M times the
    block's mean. `spread` (the paper's λ): unstructured densities span 2λ. `nm_spread`: with N:M, the
    kept weights per group span this many.
    """

    kind: Literal["owl"] = "owl"
    multiplier: float = Field(default=5, gt=0)
    spread: float = Field(default=0.08, ge=0, le=0.5)
    nm_spread: float = Field(default=2, ge=0)

    @property
    def outlier_multiplier(self) -> float:
        """The paper's M."""
        return self.multiplier

    def plan(self, pattern: Pattern, *, blocks: int, outlier_ratios: tuple[float, ...]) -> SparsityPlan:
        """density_b = (r_b - min r)/(max r - min r)·span, shifted so that its mean is the asked density."""
        if len(outlier_ratios) != blocks:
            raise InvalidSpec(
                f"{len(outlier_ratios)} outlier ratios for {blocks} blocks", "spec.prune.allocation"
            )
        if not all(math.isfinite(ratio) for ratio in outlier_ratios):
            raise NumericalError(
                f"outlier ratios are not finite: {outlier_ratios}; check the calibration texts"
            )
        low, high = min(outlier_ratios), max(outlier_ratios)
        if low == high:
            note = f"every block has the outlier ratio {low:.4g} %: OWL has nothing to tell apart, the plan is uniform"
            return SparsityPlan(asked=pattern.target, blocks=(pattern,) * blocks, notes=(note,))
        position = [(ratio - low) / (high - low) for ratio in outlier_ratios]
        if isinstance(pattern, NM):
            return self._plan_nm(pattern, position)
        return self._plan_unstructured(pattern, position)

    def _plan_unstructured(self, pattern: Unstructured, position: list[float]) -> SparsityPlan:
        density = [p * self.spread * 2 for p in position]
        mean = sum(density) / len(density)
        sparsity = [1 - (d - mean + (1 - pattern.sparsity)) for d in density]
        for block, value in enumerate(sparsity):
            if not 0 <= value < 1:
                room = min(pattern.sparsity, 1 - pattern.sparsity)
                raise InfeasiblePlan(
                    f"allocation.spread={self.spread} gives block {block} sparsity {value:.4f} (must be in [0, 1)); "
                    f"lower spread: {room / 2:.3f} or less always fits",
                    "spec.prune.allocation.spread",
                )
        return SparsityPlan(asked=pattern.sparsity, blocks=tuple(with_sparsity(pattern, s) for s in sparsity))

    def _plan_nm(self, pattern: NM, position: list[float]) -> SparsityPlan:
        shift = [p * self.nm_spread for p in position]
        mean = sum(shift) / len(shift)
        wanted = [pattern.keep + d - mean for d in shift]
        rounded = (
            [pattern.keep + round(d - mean) for d in shift]
            if pattern.rounding == "floor"
            else _largest_remainder(wanted)
        )
        for block, keep in enumerate(rounded):
            if not 1 <= keep < pattern.group:
                raise InfeasiblePlan(
                    f"allocation.nm_spread={self.nm_spread} gives block {block} NM({keep},{pattern.group}) "
                    f"(keep must be 1 to {pattern.group - 1}); lower nm_spread",
                    "spec.prune.allocation.nm_spread",
                )
        return SparsityPlan(asked=pattern.target, blocks=tuple(with_keep(pattern, keep) for keep in rounded))


def _largest_remainder(wanted: list[float]) -> list[int]:
    """Whole numbers next to `wanted` with the same sum (it is whole); equal remainders: lowest index first."""
    whole = [math.floor(value) for value in wanted]
    missing = round(sum(wanted)) - sum(whole)
    by_remainder = sorted(range(len(wanted)), key=lambda i: (whole[i] - wanted[i], i))
    for i in by_remainder[:missing]:
        whole[i] += 1
    return whole
