"""The section with what the experts of the dense model give, and which of them stay."""

from collections.abc import Mapping
from typing import Self

from pipeline.report.inputs import Inputs
from pipeline.report.section import ModelSection
from pipeline.structure.expert_table import ExpertGainTable


class ExpertGainsSection(ModelSection):
    """The tokens and gains of each expert; None unless `structure.experts` measured them."""

    expert_gains: ExpertGainTable | None = None

    @classmethod
    def read(cls, inputs: Inputs) -> Mapping[str, object]:
        """Read the table that was stored beside the cut."""
        return {"expert_gains": inputs.find("cut", ExpertGainTable)}

    @classmethod
    def view(cls, report: Self) -> Mapping[str, object] | None:
        """No names for the template; None where nothing was measured."""
        return None if report.expert_gains is None else {}
