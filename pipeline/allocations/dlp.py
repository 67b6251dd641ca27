"""DLP makes blocks denser whose median saliency is small (arXiv 2505.23807)."""

from typing import Literal

from pydantic import Field

from pipeline.allocations.base import CandidateAllocation, check_measured, positions
from pipeline.allocations.levels import nm_plan, unstructured_plan
from pipeline.allocations.measures import SaliencyMedian
from pipeline.errors import NumericalError
from pipeline.spec.patterns import NM, Pattern
from pipeline.spec.sparsity_plan import SparsityPlan, Weights


class Dlp(CandidateAllocation):
    """A block's density grows linearly with its importance 1 - u_b/Σu. u_b is the median of |W|·norm over
    block b.

    `spread` (the paper's α): densities span twice this value, around the spec's density. `nm_spread`: with
    N:M, the kept weights per group span this many.
    """

    kind: Literal["dlp"] = "dlp"
    spread: float = Field(default=0.15, ge=0, lt=0.5)
    nm_spread: float = Field(default=2, ge=0, allow_inf_nan=False)

    @property
    def measure(self) -> SaliencyMedian:
        """DLP needs the medians of saliencies."""
        return SaliencyMedian()

    def plan(self, pattern: Pattern, weights: Weights, *, measured: tuple[float, ...] = ()) -> SparsityPlan:
        """See CandidateAllocation. `measured`: medians per block. Equal ones give the uniform plan and a
        note."""
        check_measured(measured, len(weights), what="medians of saliencies")
        total = sum(measured)
        if total <= 0:
            raise NumericalError(
                f"the medians of saliencies sum to {total}: the model has no weights to tell apart"
            )
        where = positions(tuple(1 - value / total for value in measured))
        notes: tuple[str, ...] = ()
        if where is None:
            where = [0.0] * len(weights)
            notes = ("every block has the same median saliency: nothing to tell apart, the plan is uniform",)
        mean = sum(where) / len(where)
        if isinstance(pattern, NM):
            shifts = [(value - mean) * self.nm_spread for value in where]
            plan = nm_plan(pattern, shifts, field="nm_spread", value=self.nm_spread)
        else:
            wanted = [pattern.sparsity - (value - mean) * 2 * self.spread for value in where]
            plan = unstructured_plan(pattern, wanted, weights)
        return plan.model_copy(update={"notes": (*notes, *plan.notes)})
