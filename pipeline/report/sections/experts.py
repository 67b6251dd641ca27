"""The section with the calibration tokens that each expert saw."""

from collections.abc import Iterable, Mapping
from typing import Self

from pipeline.artifacts.sparsity import ExpertTable
from pipeline.report.inputs import Inputs
from pipeline.report.section import ModelSection


class ExpertsSection(ModelSection):
    """The token counts of each block with experts."""

    experts: ExpertTable | None = None

    @classmethod
    def read(cls, inputs: Inputs) -> Mapping[str, object]:
        """Read the counts that pruning stores beside its keep tensors. Training stores keep tensors without
        them."""
        found = inputs.find("pruned_keep", ExpertTable) or inputs.find("keep", ExpertTable)
        return {"experts": found}

    @classmethod
    def remarks(cls, report: Self) -> Iterable[str]:
        """A warning, if there were experts with too few tokens."""
        if report.experts is not None and report.experts.note is not None:
            yield report.experts.note

    @classmethod
    def view(cls, report: Self) -> Mapping[str, object] | None:
        """No names for the template; None where the model has no experts, or none were counted."""
        return None if report.experts is None else {}
