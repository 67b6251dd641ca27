"""The sparsities that an allocation wants become a plan that meets the budget.

Shape legend: B blocks.
"""

import math
from collections.abc import Sequence

from pipeline.errors import InfeasiblePlan
from pipeline.spec.patterns import NM, Unstructured
from pipeline.spec.sparsity_plan import SparsityPlan, Weights, largest_remainder, with_keep, with_sparsity

ROUNDING_ERROR = 1e-12  # bound for sums of a few float64 values below 1
DENSITY_LEFT = 0.1  # every block keeps at least this share of the spec's density
PUBLISHED_FLOOR = 0.01  # the sparsity that the published code gives to blocks with a negative one


def unstructured_plan(pattern: Unstructured, wanted: Sequence[float], weights: Weights) -> SparsityPlan:
    """A plan from the wanted sparsities [B], which may be out of range.

    `rounding: exact` clamps them to the range that a block may have, and moves all others by one shift, so
    that the model's zeros are round(s · weights). Wanted sparsities that are in range and have that mean stay
    as they are, to the bit. `rounding: floor` clamps as the published code does, and misses the mean.
    """
    counts = [sum(block.values()) for block in weights]
    highest = 1 - (1 - pattern.sparsity) * DENSITY_LEFT
    if pattern.rounding == "floor":
        final = [
            PUBLISHED_FLOOR if value <= -ROUNDING_ERROR else min(max(value, 0.0), highest) for value in wanted
        ]
        consequence = f"mean sparsity {_mean(final, counts):.6g}, asked {pattern.sparsity:.6g}"
    else:
        final = _balanced(wanted, counts, pattern.sparsity, highest=highest)
        consequence = "the others make up for it"
    plan = SparsityPlan(
        asked=pattern.sparsity,
        blocks=tuple(with_sparsity(pattern, value) for value in final),
        zeros=zeros_of(final, pattern.sparsity, weights) if pattern.rounding == "exact" else (),
    )
    outside = [block for block, value in enumerate(wanted) if not -ROUNDING_ERROR <= value <= highest]
    if not outside:
        return plan
    note = (
        f"the allocation wants sparsities from {min(wanted):.4g} to {max(wanted):.4g}; "
        f"{len(outside)} of {len(wanted)} blocks were clamped to 0 to {highest:.4g}, {consequence}"
    )
    return plan.model_copy(update={"notes": (note,), "wanted": tuple(wanted)})


def nm_plan(pattern: NM, shifts: Sequence[float], *, field: str, value: float) -> SparsityPlan:
    """A plan whose kept weights per group are the pattern's, moved by `shifts` [B], which sum to 0, and
    rounded. `exact` rounds by largest remainder, so that their mean is the pattern's; `floor` rounds each for
    itself, half to even, as published.

    Raises InfeasiblePlan with the largest `value` of `field` that fits: the shifts are proportional to it.
    """
    if pattern.rounding == "floor":
        keeps = [pattern.keep + round(shift) for shift in shifts]
    else:
        keeps = [pattern.keep + shift for shift in largest_remainder(shifts, 0)]
    for block, keep in enumerate(keeps):
        if not 1 <= keep < pattern.group:
            fits = value * min(
                (pattern.keep - 1) / max(-min(shifts), ROUNDING_ERROR),
                (pattern.group - 1 - pattern.keep) / max(*shifts, ROUNDING_ERROR),
            )
            raise InfeasiblePlan(
                f"allocation.{field}={value} gives block {block} {keep} kept of {pattern.group} (must be 1 "
                f"to {pattern.group - 1}); lower {field}: {math.floor(fits * 1e6) / 1e6:.6f} or less always "
                f"fits here",
                f"spec.prune.allocation.{field}",
            )
    plan = SparsityPlan(asked=pattern.target, blocks=tuple(with_keep(pattern, keep) for keep in keeps))
    if sum(keeps) == pattern.keep * len(keeps):
        return plan
    note = (
        f"pattern.rounding=floor rounds each block for itself: mean sparsity {plan.mean_sparsity:.6g}, "
        f"asked {plan.asked:.6g}"
    )
    return plan.model_copy(update={"notes": (note,)})


def zeros_of(sparsity: Sequence[float], asked: float, weights: Weights) -> tuple[dict[str, int], ...]:
    """The zeros per block and linear, whose sum over the model is round(asked · weights)."""
    counts = [sum(block.values()) for block in weights]
    shares = [value * count for value, count in zip(sparsity, counts, strict=True)]
    per_block = largest_remainder(shares, round(asked * sum(counts)))
    zeros = []
    for value, block, count in zip(sparsity, weights, per_block, strict=True):
        linears = largest_remainder([value * linear for linear in block.values()], count)
        zeros.append(dict(zip(block, linears, strict=True)))
    return tuple(zeros)


def _balanced(wanted: Sequence[float], counts: Sequence[int], asked: float, *, highest: float) -> list[float]:
    """The wanted values, moved by one shift and clamped to [0, highest], so that the weighted mean is
    `asked`."""

    def moved(shift: float) -> list[float]:
        return [min(max(value + shift, 0.0), highest) for value in wanted]

    if abs(_mean(moved(0.0), counts) - asked) <= ROUNDING_ERROR:
        return moved(0.0)
    low, high = -1.0 - max(wanted), 1.0 - min(wanted)  # shifts that put all blocks at 0, and at the highest
    while low < (middle := (low + high) / 2) < high:
        if _mean(moved(middle), counts) < asked:
            low = middle
        else:
            high = middle
    return moved(high)


def _mean(values: Sequence[float], counts: Sequence[int]) -> float:
    return math.fsum(value * count for value, count in zip(values, counts, strict=True)) / sum(counts)
