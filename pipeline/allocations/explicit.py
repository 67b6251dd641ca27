"""The explicit allocation takes the sparsity of each block from the spec."""

from typing import Annotated, Literal

from pydantic import Field

from pipeline.allocations.base import CandidateAllocation
from pipeline.allocations.levels import zeros_of
from pipeline.errors import InvalidSpec
from pipeline.spec.patterns import NM, Pattern
from pipeline.spec.sparsity_plan import SparsityPlan, Weights, with_keep, with_sparsity

FIELD = "spec.prune.allocation.sparsity"


class Explicit(CandidateAllocation):
    """One sparsity per decoder block, in block order. With N:M each is a whole number of zeros per group."""

    kind: Literal["explicit"] = "explicit"
    sparsity: tuple[Annotated[float, Field(ge=0, lt=1)], ...] = Field(min_length=1)

    def check(self, pattern: Pattern, *, blocks: int | None) -> None:
        """Raise InvalidSpec unless there is one value per block, their mean is the pattern's sparsity, and
        with N:M each is a whole number of zeros per group."""
        if blocks is not None and len(self.sparsity) != blocks:
            raise InvalidSpec(
                f"got {len(self.sparsity)} values, the model has {blocks} blocks; give one per block", FIELD
            )
        mean = sum(self.sparsity) / len(self.sparsity)
        if abs(mean - pattern.target) > 1e-6:
            raise InvalidSpec(
                f"the values have mean {mean:.6g}, the pattern asks for {pattern.target:.6g}; "
                f"make them agree",
                FIELD,
            )
        if isinstance(pattern, NM):
            for block, sparsity in enumerate(self.sparsity):
                _keep_of(pattern, block, sparsity)

    def plan(self, pattern: Pattern, weights: Weights, *, measured: tuple[float, ...] = ()) -> SparsityPlan:
        """See CandidateAllocation: the values of the spec."""
        self.check(pattern, blocks=len(weights))
        if isinstance(pattern, NM):
            keeps = [_keep_of(pattern, block, sparsity) for block, sparsity in enumerate(self.sparsity)]
            return SparsityPlan(
                asked=pattern.target, blocks=tuple(with_keep(pattern, keep) for keep in keeps)
            )
        blocks = tuple(with_sparsity(pattern, sparsity) for sparsity in self.sparsity)
        zeros = zeros_of(self.sparsity, pattern.sparsity, weights) if pattern.rounding == "exact" else ()
        return SparsityPlan(asked=pattern.target, blocks=blocks, zeros=zeros)


def _keep_of(pattern: NM, block: int, sparsity: float) -> int:
    keep = round((1 - sparsity) * pattern.group)
    if abs((1 - sparsity) * pattern.group - keep) > 1e-6 or not 1 <= keep < pattern.group:
        raise InvalidSpec(
            f"block {block}: sparsity {sparsity} is no whole number of zeros of {pattern.group} "
            f"(1 to {pattern.group - 1}); use multiples of 1/{pattern.group}",
            FIELD,
        )
    return keep
