"""What structured pruning cut, and what is left."""

from collections.abc import Mapping
from typing import Self

from pipeline.report.inputs import Inputs
from pipeline.report.section import ModelSection
from pipeline.structure.table import SizeTable, sizes_through


class SizesSection(ModelSection):
    """Sizes of the dense model and of what was cut out of it."""

    sizes: SizeTable | None = None

    @classmethod
    def read(cls, inputs: Inputs) -> Mapping[str, object]:
        """A cut of the vocabulary comes first, then that of everything else."""
        cuts = [inputs.find(name, SizeTable) for name in ("vocabulary", "cut")]
        return {"sizes": sizes_through(cuts)}

    @classmethod
    def view(cls, report: Self) -> Mapping[str, object] | None:
        """Nothing where nothing was cut."""
        return None if report.sizes is None else {}
