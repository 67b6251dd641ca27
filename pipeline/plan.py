"""SparsityPlan: how sparse each block becomes."""

import math

from pipeline.canonical import Frozen
from pipeline.patterns import NM, Pattern, Unstructured


class SparsityPlan(Frozen):
    """One pattern per block, in block order, and what the allocation wants the reader to know.

    `asked` is the global sparsity of the spec; the plan's `mean_sparsity` equals it, and `notes` name every
    deviation (equal outlier ratios, published rounding), so that the report can show them.
    """

    asked: float
    blocks: tuple[Pattern, ...]
    notes: tuple[str, ...] = ()

    @property
    def sparsity(self) -> tuple[float, ...]:
        """Sparsity per block, in [0, 1)."""
        return tuple(block.target for block in self.blocks)

    @property
    def mean_sparsity(self) -> float:
        """Mean of the blocks' sparsities, in [0, 1)."""
        return math.fsum(self.sparsity) / len(self.blocks)


def with_sparsity(pattern: Unstructured, sparsity: float) -> Unstructured:
    """The same pattern at another sparsity, checked again."""
    return Unstructured.model_validate({**pattern.model_dump(), "sparsity": sparsity})


def with_keep(pattern: NM, keep: int) -> NM:
    """The same group with another number of kept weights, checked again."""
    return NM.model_validate({**pattern.model_dump(), "keep": keep})
