"""The same sparsity in every block."""

from typing import Literal

from pipeline.allocations.base import AllocationBase
from pipeline.patterns import Pattern
from pipeline.plan import SparsityPlan


class Uniform(AllocationBase):
    """Every block at the spec's sparsity."""

    kind: Literal["uniform"] = "uniform"

    def plan(self, pattern: Pattern, *, blocks: int, outlier_ratios: tuple[float, ...]) -> SparsityPlan:
        """`blocks` copies of the pattern."""
        return SparsityPlan(asked=pattern.target, blocks=(pattern,) * blocks)
