"""The section with each block's distance to the dense block, before and after it was fitted."""

from collections.abc import Mapping
from typing import Self

from pipeline.artifacts.curve import BlockFit, BlockFits
from pipeline.report.drawing.curves import fit_chart
from pipeline.report.inputs import Inputs
from pipeline.report.section import ModelSection


class ReconstructionSection(ModelSection):
    """The distances before and after fitting."""

    fits: tuple[BlockFit, ...] = ()

    @classmethod
    def read(cls, inputs: Inputs) -> Mapping[str, object]:
        """Read the distances that pruning stores beside its keep tensors. Training stores keep tensors
        without them."""
        found = inputs.find("pruned_keep", BlockFits) or inputs.find("keep", BlockFits)
        return {"fits": () if found is None else found.blocks}

    @classmethod
    def view(cls, report: Self) -> Mapping[str, object] | None:
        """The chart; None where no blocks were fitted."""
        return {"chart": fit_chart(report.fits)} if report.fits else None
