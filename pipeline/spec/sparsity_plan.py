"""SparsityPlan: how sparse each block, and each linear in it, becomes."""

import math
from collections.abc import Mapping, Sequence

from pipeline.canonical import Frozen
from pipeline.spec.patterns import NM, Pattern, Unstructured

Weights = Sequence[Mapping[str, int]]  # per block: linear → its number of weights


class SparsityPlan(Frozen):
    """One pattern per block, in block order, and what the allocation wants the reader to know.

    `asked` is the global sparsity of the spec; the plan's `mean_sparsity` equals it, and `notes` name every
    deviation (equal outlier ratios, published rounding), so that the report can show them. `zeros`: per block
    and linear, so that the model's zeros are round(asked · weights), to the weight; empty where the pattern
    counts by itself (N:M, published rounding). `wanted`: sparsities per block before those out of range were
    clamped and the others moved to make up for it; empty where none was.
    """

    asked: float
    blocks: tuple[Pattern, ...]
    notes: tuple[str, ...] = ()
    zeros: tuple[dict[str, int], ...] = ()
    wanted: tuple[float, ...] = ()

    @property
    def sparsity(self) -> tuple[float, ...]:
        """Sparsity per block, in [0, 1)."""
        return tuple(block.target for block in self.blocks)

    @property
    def mean_sparsity(self) -> float:
        """Mean of the blocks' sparsities, in [0, 1)."""
        return math.fsum(self.sparsity) / len(self.blocks)

    def pattern(self, block: int, linear: str, *, weights: int) -> Pattern:
        """Of one linear with so many weights."""
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
    """Whole numbers next to `shares` that sum to `total`; equal remainders: lowest index first."""
    near = [round(share, 9) for share in shares]  # so that rounding errors make no remainders
    whole = [math.floor(share) for share in near]
    by_remainder = sorted(range(len(near)), key=lambda i: (round(whole[i] - near[i], 9), i))
    for i in by_remainder[: total - sum(whole)]:
        whole[i] += 1
    return whole
