"""The section with measured values and sparsity per block, and the difference to the asked sparsity."""

from collections.abc import Iterable, Mapping
from typing import Self

from pipeline.allocations.measures import Measurements
from pipeline.report.drawing.block_chart import block_chart
from pipeline.report.inputs import Inputs
from pipeline.report.section import Headline, ModelSection
from pipeline.spec.sparsity_plan import SparsityPlan

SPARSITY_TOLERANCE = 1e-3


class BlocksHeadline(Headline):
    """The asked and the achieved sparsity over all blocks."""

    asked_sparsity: float | None = None
    achieved_sparsity: float | None = None


class BlocksSection(ModelSection):
    """The blocks. `measurements`: the values that the allocation measured in each block. Fills `plan`."""

    measurements: Measurements | None = None

    @classmethod
    def read(cls, inputs: Inputs) -> Mapping[str, object]:
        """Read the plan, and the measurements that it followed from, if there were any."""
        return {
            "plan": inputs.find("plan", SparsityPlan),
            "measurements": inputs.find("measurements", Measurements),
        }

    @classmethod
    def headline(cls, report: Self) -> Headline | None:
        """The sparsities, which are None where nothing was pruned."""
        return BlocksHeadline(
            asked_sparsity=report.asked,
            achieved_sparsity=report.sparsity.sparsity if report.sparsity is not None else None,
        )

    @classmethod
    def remarks(cls, report: Self) -> Iterable[str]:
        """The changes that the allocation had to make, and a sparsity that was missed."""
        if report.plan is not None:
            yield from report.plan.notes
        if report.sparsity is None or report.asked is None:
            return
        difference = report.sparsity.sparsity - report.asked
        if abs(difference) > SPARSITY_TOLERANCE:
            yield (
                f"achieved sparsity {report.sparsity.sparsity:.4f} is {abs(difference):.4f} "
                f"{'above' if difference > 0 else 'below'} the asked {report.asked:g}"
            )

    @classmethod
    def view(cls, report: Self) -> Mapping[str, object] | None:
        """The chart; None where there are no zeros."""
        if report.sparsity is None:
            return None
        plan = report.plan if report.keeps_plan else None
        return {"chart": block_chart(plan, report.sparsity, report.measurements, asked=report.asked)}
