"""AlphaPruning keeps well-trained blocks denser: their spectra have heavy tails (arXiv 2410.10912)."""

from typing import Literal

from pydantic import Field

from pipeline.allocations.base import CandidateAllocation, check_measured, positions
from pipeline.allocations.levels import nm_plan, unstructured_plan
from pipeline.allocations.measures import HillAlpha
from pipeline.spec.patterns import NM, Pattern
from pipeline.spec.sparsity_plan import SparsityPlan, Weights


class AlphaPruning(CandidateAllocation):
    """Block b gets sparsity s_b = η·(2ε·p_b + 1 - ε). p_b is the position of its Hill estimate between the
    smallest (0) and the largest (1), `spread` is the paper's ε, and η gives the mean the spec's sparsity. The
    estimates depend on weights only."""

    kind: Literal["alpha_pruning"] = "alpha_pruning"
    spread: float = Field(default=0.3, ge=0, lt=1)

    @property
    def measure(self) -> HillAlpha:
        """AlphaPruning needs the Hill estimates of the spectra."""
        return HillAlpha()

    def plan(self, pattern: Pattern, weights: Weights, *, measured: tuple[float, ...] = ()) -> SparsityPlan:
        """See CandidateAllocation. `measured`: Hill estimates per block. Equal ones give the uniform plan and
        a note."""
        check_measured(measured, len(weights), what="Hill estimates")
        where = positions(measured)
        notes: tuple[str, ...] = ()
        if where is None:
            where = [0.5] * len(weights)
            notes = ("every block has the same Hill estimate: nothing to tell apart, the plan is uniform",)
        levels = [2 * self.spread * value + 1 - self.spread for value in where]
        counts = [sum(block.values()) for block in weights]
        mean = sum(level * count for level, count in zip(levels, counts, strict=True)) / sum(counts)
        wanted = [pattern.target * level / mean for level in levels]
        if isinstance(pattern, NM):
            shifts = [(pattern.target - value) * pattern.group for value in wanted]
            plan = nm_plan(pattern, shifts, field="spread", value=self.spread)
        else:
            plan = unstructured_plan(pattern, wanted, weights)
        return plan.model_copy(update={"notes": (*notes, *plan.notes)})
