"""Tokens that stayed when the vocabulary was cut, and the proof that the smaller tokenizer does the same."""

from collections.abc import Mapping
from typing import Self

from pipeline.artifacts.vocabulary import VocabularyTable
from pipeline.report.inputs import Inputs
from pipeline.report.section import ModelSection


class VocabularySection(ModelSection):
    """Counts of tokens before and after."""

    vocabulary: VocabularyTable | None = None

    @classmethod
    def read(cls, inputs: Inputs) -> Mapping[str, object]:
        """The table that the cut made."""
        return {"vocabulary": inputs.find("vocabulary", VocabularyTable)}

    @classmethod
    def view(cls, report: Self) -> Mapping[str, object] | None:
        """Nothing where the vocabulary is whole."""
        return None if report.vocabulary is None else {}
