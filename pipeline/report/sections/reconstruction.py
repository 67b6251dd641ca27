"""How near each block came to the dense one when it was fitted after pruning."""

from collections.abc import Mapping
from typing import Self

from pipeline.artifacts.curve import BlockFit, BlockFits
from pipeline.report.drawing.curves import fit_chart
from pipeline.report.inputs import Inputs
from pipeline.report.section import ModelSection


class ReconstructionSection(ModelSection):
    """Distances before and after."""

    fits: tuple[BlockFit, ...] = ()

    @classmethod
    def read(cls, inputs: Inputs) -> Mapping[str, object]:
        """Pruning stores them beside its keep tensors; those of training, if there are any, come without."""
        found = inputs.find("pruned_keep", BlockFits) or inputs.find("keep", BlockFits)
        return {"fits": () if found is None else found.blocks}

    @classmethod
    def view(cls, report: Self) -> Mapping[str, object] | None:
        """The picture; nothing where blocks stayed as pruning left them."""
        return {"chart": fit_chart(report.fits)} if report.fits else None
