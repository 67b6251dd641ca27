"""OWL: blocks with more outliers stay denser (Yin et al., arXiv 2310.05175).

r_b is the outlier ratio of block b. Its position p_b = (r_b - min r)/(max r - min r) lies in [0, 1]; its
density is the asked one plus 2·spread·(p_b - mean p), so the mean over blocks is the asked one.
"""

import math
from typing import Literal

from pydantic import Field

from pipeline.allocations.base import AllocationBase
from pipeline.errors import InfeasiblePlan, InvalidSpec, NumericalError
from pipeline.patterns import NM, Pattern, Unstructured
from pipeline.plan import SparsityPlan, with_keep, with_sparsity

ROUNDING_ERROR = 1e-12  # of sums of a few float64 values below 1


class Owl(AllocationBase):
    """Density of a block grows linearly with its outlier ratio.

    `multiplier` (the paper's M): a weight is an outlier when its saliency |W|·norm exceeds M times the
    block's mean; the saliency is Wanda's whatever the method. `spread` (the paper's λ): unstructured
    densities span 2λ. `nm_spread`: with N:M, the kept weights per group span this many.
    """

    kind: Literal["owl"] = "owl"
    multiplier: float = Field(default=5, gt=0, allow_inf_nan=False)
    spread: float = Field(default=0.08, ge=0, lt=0.5)
    nm_spread: float = Field(default=2, ge=0, allow_inf_nan=False)

    @property
    def outlier_multiplier(self) -> float:
        """The paper's M."""
        return self.multiplier

    def plan(self, pattern: Pattern, *, blocks: int, outlier_ratios: tuple[float, ...]) -> SparsityPlan:
        """One pattern per block. `outlier_ratios`: percent per block.

        Equal ratios give the uniform plan and a note. Raises InfeasiblePlan, with the largest spread that
        fits these ratios, when a block would leave the pattern's range (the published code clamps it and
        misses the asked sparsity), and NumericalError for ratios that are not finite.
        """
        if len(outlier_ratios) != blocks:
            raise InvalidSpec(
                f"{len(outlier_ratios)} outlier ratios for {blocks} blocks; give one per block", "spec.prune.allocation"
            )
        if not all(math.isfinite(ratio) for ratio in outlier_ratios):
            raise NumericalError(
                f"outlier ratios are not finite: {outlier_ratios}; check the weights and the calibration texts"
            )
        low, high = min(outlier_ratios), max(outlier_ratios)
        if low == high:
            note = f"every block has the outlier ratio {low:.4g} %: nothing to tell apart, the plan is uniform"
            return SparsityPlan(asked=pattern.target, blocks=(pattern,) * blocks, notes=(note,))
        positions = [(ratio - low) / (high - low) for ratio in outlier_ratios]
        if isinstance(pattern, NM):
            return self._plan_nm(pattern, positions)
        return self._plan_unstructured(pattern, positions)

    def _plan_unstructured(self, pattern: Unstructured, positions: list[float]) -> SparsityPlan:
        mean = math.fsum(positions) / len(positions)
        sparsity = [pattern.sparsity - 2 * self.spread * (position - mean) for position in positions]
        # The densest block reaches sparsity 0, or the sparsest reaches 1, whichever comes first.
        largest_dense = pattern.sparsity / (2 * (1 - mean))
        largest_sparse = (1 - pattern.sparsity) / (2 * mean)
        if max(sparsity) >= 1 and largest_sparse <= largest_dense:
            self._refuse(sparsity.index(max(sparsity)), max(sparsity), "< 1", f"below {_down(largest_sparse)}")
        if min(sparsity) < -ROUNDING_ERROR:
            limit = f"to {_down(largest_dense)} or less"
            self._refuse(sparsity.index(min(sparsity)), min(sparsity), "at least 0", limit)
        planned = tuple(with_sparsity(pattern, max(value, 0.0)) for value in sparsity)
        return SparsityPlan(asked=pattern.sparsity, blocks=planned)

    def _refuse(self, block: int, sparsity: float, allowed: str, limit: str) -> None:
        raise InfeasiblePlan(
            f"allocation.spread={self.spread} gives block {block} sparsity {sparsity:.4f} (must be {allowed}); "
            f"lower spread {limit}",
            "spec.prune.allocation.spread",
        )

    def _plan_nm(self, pattern: NM, positions: list[float]) -> SparsityPlan:
        mean = math.fsum(positions) / len(positions)
        shifts = [self.nm_spread * (position - mean) for position in positions]
        if pattern.rounding == "floor":
            keeps = [pattern.keep + round(shift) for shift in shifts]  # half to even
        else:
            keeps = [pattern.keep + shift for shift in _largest_remainder(shifts)]
        for block, keep in enumerate(keeps):
            if not 1 <= keep < pattern.group:
                fits = min((pattern.keep - 1) / mean, (pattern.group - 1 - pattern.keep) / (1 - mean))
                raise InfeasiblePlan(
                    f"allocation.nm_spread={self.nm_spread} gives block {block} {keep} kept of {pattern.group} "
                    f"(must be 1 to {pattern.group - 1}); {_down(fits)} or less always fits these ratios",
                    "spec.prune.allocation.nm_spread",
                )
        plan = SparsityPlan(asked=pattern.target, blocks=tuple(with_keep(pattern, keep) for keep in keeps))
        if sum(keeps) == pattern.keep * len(keeps):
            return plan
        note = (
            f"pattern.rounding=floor rounds each block for itself: mean sparsity {plan.mean_sparsity:.6g}, "
            f"asked {plan.asked:.6g}"
        )
        return plan.model_copy(update={"notes": (note,)})


def _down(value: float) -> str:
    """Rounded down to 6 digits after the point, so that what is printed fits."""
    return f"{math.floor(value * 1e6) / 1e6:.6f}"


def _largest_remainder(shifts: list[float]) -> list[int]:
    """Whole numbers next to `shifts`, which sum to 0, that sum to 0; equal remainders: lowest index first."""
    near = [round(shift, 9) for shift in shifts]  # so that rounding errors make no remainders
    whole = [math.floor(shift) for shift in near]
    by_remainder = sorted(range(len(near)), key=lambda i: (round(whole[i] - near[i], 9), i))
    for i in by_remainder[: -sum(whole)]:
        whole[i] += 1
    return whole
