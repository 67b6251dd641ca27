"""A SparsityPlan says how sparse each block, and each linear in it, becomes."""

import math
from collections.abc import Mapping, Sequence

from pipeline.canonical import Frozen
from pipeline.spec.patterns import NM, Pattern, Unstructured

Weights = Sequence[Mapping[str, int]]  # per block: linear → its number of weights


class SparsityPlan(Frozen):
    """One pattern per block, in block order, with the allocation's notes for the report.

    `asked` is the global sparsity of the spec. The plan's `mean_sparsity` equals it, and `notes` name every
    deviation (equal outlier ratios, published rounding). `zeros`: the zeros per block and linear, whose sum
    is round(asked · weights) exactly; empty where the pattern gives the counts (N:M, published rounding).
    `wanted`: the allocation's sparsities per block before some were clamped and the others compensated; empty
    if none was clamped.
    """

    asked: float
    blocks: tuple[Pattern, ...]
    notes: tuple[str, ...] = ()
    zeros: tuple[dict[str, int], ...] = ()
    wanted: tuple[float, ...] = ()

    @property
    def sparsity(self) -> tuple[float, ...]:
        """The sparsity per block, in [0, 1)."""
        return tuple(block.target for block in self.blocks)

    @property
    def mean_sparsity(self) -> float:
        """The mean of the blocks' sparsities, in [0, 1)."""
        return math.fsum(self.sparsity) / len(self.blocks)

    def pattern(self, block: int, linear: str, *, weights: int) -> Pattern:
        """The pattern of one linear. `weights`: its number of weights."""
        planned = self.blocks[block]
        if not self.zeros or isinstance(planned, NM):
            return planned
        return with_sparsity(planned, self.zeros[block][linear] / weights)


def with_sparsity(pattern: Unstructured, sparsity: float) -> Unstructured:
    """The same pattern at another sparsity, checked again."""
    return Unstructured.model_validate({**pattern.model_dump(), "sparsity": sparsity})


def with_keep(pattern: NM, keep: int) -> NM:
    """The same group with another number of kept weights, checked again."""
    return NM.model_validate({**pattern.model_dump(), "keep": keep})


def largest_remainder(shares: Sequence[float], total: int) -> list[int]:
    """Round `shares` to whole numbers that sum to `total`; of equal remainders the lowest index is first."""
    near = [round(share, 9) for share in shares]  # so that rounding errors do not count as remainders
    whole = [math.floor(share) for share in near]
    by_remainder = sorted(range(len(near)), key=lambda i: (round(whole[i] - near[i], 9), i))
    for i in by_remainder[: total - sum(whole)]:
        whole[i] += 1
    return whole
