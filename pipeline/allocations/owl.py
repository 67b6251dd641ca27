"""OWL: blocks with more outliers stay denser (Yin et al., arXiv 2310.05175).

r_b is the outlier ratio of block b. Its position p_b = (r_b - min r)/(max r - min r) lies in [0, 1]; its
density is the asked one plus 2·spread·(p_b - mean p), so the mean over blocks is the asked one.
"""

import math
from typing import Literal, NoReturn

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
                f"{len(outlier_ratios)} outlier ratios for {blocks} blocks; give one per block",
                "spec.prune.allocation",
            )
        if not all(math.isfinite(ratio) for ratio in outlier_ratios):
            raise NumericalError(
                f"outlier ratios are not finite: {outlier_ratios}; check weights and calibration texts"
            )
        low, high = min(outlier_ratios), max(outlier_ratios)
        if low == high:
            note = (
                f"every block has the outlier ratio {low:.4g} %: nothing to tell apart, the plan is uniform"
            )
            return SparsityPlan(asked=pattern.target, blocks=(pattern,) * blocks, notes=(note,))
        if isinstance(pattern, NM):
            return self._plan_nm(pattern, outlier_ratios)
        return self._plan_unstructured(pattern, outlier_ratios)

    def _plan_unstructured(self, pattern: Unstructured, ratios: tuple[float, ...]) -> SparsityPlan:
        # In the published order of operations: the bits decide where a count is rounded down.
        sparsity = [1 - (shift + (1 - pattern.sparsity)) for shift in _shifts(ratios, 2 * self.spread)]
        if min(sparsity) < -ROUNDING_ERROR or max(sparsity) >= 1:
            self._refuse(pattern, sparsity, _mean_position(ratios))
        planned = tuple(with_sparsity(pattern, max(value, 0.0)) for value in sparsity)
        return SparsityPlan(asked=pattern.sparsity, blocks=planned)

    def _refuse(self, pattern: Unstructured, sparsity: list[float], mean: float) -> NoReturn:
        # As spread grows, the densest block reaches 0 or the sparsest reaches 1, whichever comes first.
        largest_dense = pattern.sparsity / (2 * (1 - mean))
        largest_sparse = (1 - pattern.sparsity) / (2 * mean)
        if largest_sparse <= largest_dense:
            value, allowed, limit = max(sparsity), "< 1", f"below {_down(largest_sparse)}"
        else:
            value, allowed, limit = min(sparsity), "at least 0", f"to {_down(largest_dense)} or less"
        raise InfeasiblePlan(
            f"allocation.spread={self.spread} gives block {sparsity.index(value)} sparsity {value:.4g} "
            f"(must be {allowed}); lower spread {limit}",
            "spec.prune.allocation.spread",
        )

    def _plan_nm(self, pattern: NM, ratios: tuple[float, ...]) -> SparsityPlan:
        shifts = _shifts(ratios, self.nm_spread)
        if pattern.rounding == "floor":
            keeps = [pattern.keep + round(shift) for shift in shifts]  # half to even
        else:
            keeps = [pattern.keep + shift for shift in _largest_remainder(shifts)]
        for block, keep in enumerate(keeps):
            if not 1 <= keep < pattern.group:
                mean = _mean_position(ratios)
                fits = min((pattern.keep - 1) / mean, (pattern.group - 1 - pattern.keep) / (1 - mean))
                raise InfeasiblePlan(
                    f"allocation.nm_spread={self.nm_spread} gives block {block} {keep} kept of "
                    f"{pattern.group} (must be 1 to {pattern.group - 1}); lower nm_spread: "
                    f"{_down(fits)} or less always fits these ratios",
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


def _shifts(ratios: tuple[float, ...], span: float) -> list[float]:
    """span·(p_b - mean p) for each block."""
    low, high = min(ratios), max(ratios)
    scale = 1 / (high - low) * span
    scaled = [(ratio - low) * scale for ratio in ratios]
    mean = sum(scaled) / len(scaled)
    return [value - mean for value in scaled]


def _mean_position(ratios: tuple[float, ...]) -> float:
    """Mean p, above 0 and below 1 for ratios that are not all equal."""
    low, high = min(ratios), max(ratios)
    return math.fsum((ratio - low) / (high - low) for ratio in ratios) / len(ratios)


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
