"""What makes a model smaller: fewer tokens, and other sizes."""

from typing import ClassVar, Literal

from pipeline.dag.stages.base import BaseStage
from pipeline.sources.pins import PinnedFile
from pipeline.spec.structure import Structure
from pipeline.spec.texts import TextSource


class CountTokens(BaseStage):
    """Documents → how often each token of `checkpoint` occurs in them. `files`: of each of `texts`, and then
    of `held_out`, whose documents, if it is given, are kept to prove by."""

    kind: Literal["count_tokens"] = "count_tokens"
    names_sources: ClassVar = True
    outputs: ClassVar = ("counts",)
    unit: ClassVar = "MB"
    files: tuple[tuple[PinnedFile, ...], ...]
    texts: tuple[TextSource, ...]
    held_out: TextSource | None


class CutVocabulary(BaseStage):
    """`counts` → a checkpoint with the tokens that are used most, and the proof of its tokenizer."""

    kind: Literal["cut_vocabulary"] = "cut_vocabulary"
    outputs: ClassVar = ("checkpoint", "vocabulary")
    unit: ClassVar = "block"
    size: int
    multiple_of: int


class Slice(BaseStage):
    """A checkpoint cut to another size, and what stayed of it. Takes `statistics` of a dense sweep where
    activations decide."""

    kind: Literal["slice"] = "slice"
    outputs: ClassVar = ("checkpoint", "cut")
    unit: ClassVar = "block"
    structure: Structure
