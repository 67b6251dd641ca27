"""The section with the sizes of a model before and after structured pruning."""

from collections.abc import Mapping
from typing import Self

from pipeline.report.inputs import Inputs
from pipeline.report.section import ModelSection
from pipeline.structure.table import SizeTable, sizes_through


class SizesSection(ModelSection):
    """The sizes of the dense and of the smaller model."""

    sizes: SizeTable | None = None

    @classmethod
    def read(cls, inputs: Inputs) -> Mapping[str, object]:
        """Read the tables of both cuts. The vocabulary is cut first, and then everything else."""
        cuts = [inputs.find(name, SizeTable) for name in ("vocabulary", "cut")]
        return {"sizes": sizes_through(cuts)}

    @classmethod
    def view(cls, report: Self) -> Mapping[str, object] | None:
        """No names for the template; None where nothing was cut."""
        return None if report.sizes is None else {}
