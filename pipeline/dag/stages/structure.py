"""The stages that make a model smaller, by fewer tokens and by other sizes."""

from typing import ClassVar, Literal

from pipeline.dag.stages.base import BaseStage
from pipeline.sources.pins import PinnedFile
from pipeline.spec.structure import Structure
from pipeline.spec.texts import TextSource
from pipeline.tensor.needs import Statistic


class CountTokens(BaseStage):
    """Documents → counts of each token of `checkpoint` in them. `files`: the files of each of `texts`, and
    then of `held_out`, if it is given; the cut tokenizer is proved on its documents."""

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
    """A checkpoint cut to another size, and a list of the parts that stayed. Takes `statistics` of a dense
    sweep where activations decide."""

    kind: Literal["slice"] = "slice"
    outputs: ClassVar = ("checkpoint", "cut")
    unit: ClassVar = "block"
    structure: Structure


def sweep_needs(structure: Structure) -> tuple[Statistic, ...]:
    """Returns what a dense sweep measures for a structure, sorted: the scores for every criterion at once, so
    that structures share it, and what experts give, which costs more, only if it is asked for."""
    needs: set[Statistic] = {"channel_score", "similarity"}
    if structure.experts is not None and structure.experts.needs_samples:
        needs.add("expert_gain")
        if structure.experts.merges:
            needs.add("expert_similarity")
    return tuple(sorted(needs))
