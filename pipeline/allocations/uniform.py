"""The uniform allocation gives every block the same sparsity."""

from typing import Literal

from pipeline.allocations.base import CandidateAllocation
from pipeline.allocations.levels import unstructured_plan
from pipeline.spec.patterns import NM, Pattern
from pipeline.spec.sparsity_plan import SparsityPlan, Weights


class Uniform(CandidateAllocation):
    """Every block gets the spec's sparsity."""

    kind: Literal["uniform"] = "uniform"

    def plan(self, pattern: Pattern, weights: Weights, *, measured: tuple[float, ...] = ()) -> SparsityPlan:
        """See CandidateAllocation: a copy of the pattern for each block."""
        if isinstance(pattern, NM):
            return SparsityPlan(asked=pattern.target, blocks=(pattern,) * len(weights))
        return unstructured_plan(pattern, [pattern.sparsity] * len(weights), weights)
