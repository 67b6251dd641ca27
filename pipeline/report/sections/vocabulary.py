"""The section with the tokens that stayed when the vocabulary was cut, and the proof of the cut tokenizer."""

from collections.abc import Mapping
from typing import Self

from pipeline.artifacts.vocabulary import VocabularyTable
from pipeline.report.inputs import Inputs
from pipeline.report.section import ModelSection


class VocabularySection(ModelSection):
    """The counts of tokens before and after the cut."""

    vocabulary: VocabularyTable | None = None

    @classmethod
    def read(cls, inputs: Inputs) -> Mapping[str, object]:
        """Read the table that the cut made."""
        return {"vocabulary": inputs.find("vocabulary", VocabularyTable)}

    @classmethod
    def view(cls, report: Self) -> Mapping[str, object] | None:
        """No names for the template; None where the vocabulary is whole."""
        return None if report.vocabulary is None else {}
