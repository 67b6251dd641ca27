"""Calibration tokens that each expert saw."""

from collections.abc import Iterable, Mapping
from typing import Self

from pipeline.artifacts.sparsity import ExpertTable
from pipeline.report.inputs import Inputs
from pipeline.report.section import ModelSection


class ExpertsSection(ModelSection):
    """Counts for each block with experts."""

    experts: ExpertTable | None = None

    @classmethod
    def read(cls, inputs: Inputs) -> Mapping[str, object]:
        """Pruning stores them beside its keep tensors; those of training, if there are any, come without."""
        found = inputs.find("pruned_keep", ExpertTable) or inputs.find("keep", ExpertTable)
        return {"experts": found}

    @classmethod
    def remarks(cls, report: Self) -> Iterable[str]:
        """Whether there were experts with too few tokens."""
        if report.experts is not None and report.experts.note is not None:
            yield report.experts.note

    @classmethod
    def view(cls, report: Self) -> Mapping[str, object] | None:
        """Nothing where the model has no experts, or none were counted."""
        return None if report.experts is None else {}
