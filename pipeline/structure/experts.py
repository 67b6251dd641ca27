"""The experts of a smaller model: which of them stay, and what becomes of the others."""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from pipeline.canonical import Frozen
from pipeline.errors import InvalidSpec
from pipeline.structure.base import Known
from pipeline.structure.cut import BlockCut, Cut
from pipeline.structure.expert_criteria import FIELD, ExpertCriterion, ExplicitExperts, Reap
from pipeline.structure.expert_facts import ExpertFacts
from pipeline.structure.scores import ModelScores

if TYPE_CHECKING:
    import numpy as np


class ExpertChoice(Frozen):
    """How the experts that stay are chosen; `num_experts` beside it says how many. `others`: the experts that
    go are dropped, or merged into those that stay (Router-weighted Expert Activation Merging, arXiv
    2604.04356)."""

    criterion: ExpertCriterion = Field(default_factory=Reap)
    others: Literal["dropped", "merged"] = "dropped"

    @property
    def merges(self) -> bool:
        """Tells whether experts that go are merged into others."""
        return self.others == "merged"

    @property
    def needs_samples(self) -> bool:
        """Tells whether what experts give is measured on calibration samples. Merging always needs it."""
        return self.merges or self.criterion.needs_samples

    def ranked(self, scores: ModelScores, known: Known) -> ModelScores:
        """Returns the scores of a model with this criterion's for its experts."""
        counts = [0 if block.experts_E is None else len(block.experts_E) for block in scores.blocks]
        found = self.criterion.scores(known, counts)
        blocks = (
            replace(block, experts_E=experts) for block, experts in zip(scores.blocks, found, strict=True)
        )
        return ModelScores(scores.hidden_H, tuple(blocks))

    def applied(self, cut: Cut, known: Known) -> Cut:
        """Returns the cut with the experts that go merged into others, if that is asked for. Raises
        InvalidSpec if the cut keeps other experts than an explicit criterion names."""
        if isinstance(self.criterion, ExplicitExperts):
            _check_explicit(self.criterion, cut)
        if not self.merges:
            return cut
        facts = known.experts()
        blocks = (_merged(block, facts[block.block]) for block in cut.blocks)
        return cut.model_copy(update={"blocks": tuple(blocks)})


def nearest(similarity_EE: "np.ndarray", kept: Sequence[int]) -> dict[int, list[int]]:
    """Returns for each expert that stays the experts that go and are most similar to it, in their order.
    Equally similar ones go to the lowest number."""
    groups: dict[int, list[int]] = {expert: [] for expert in kept}
    for gone in range(len(similarity_EE)):
        if gone not in groups:
            groups[max(kept, key=lambda expert: (similarity_EE[gone, expert], -expert))].append(gone)
    return groups


def _merged(block: BlockCut, facts: ExpertFacts | None) -> BlockCut:
    """Returns the cut of a block with the weights of the experts in each one that stays. An expert without
    tokens weighs nothing; where no expert of a group has any, the one that stays is left as it is."""
    if facts is None or not block.experts:
        return block
    saliency_E = facts.saliency
    merged: dict[int, dict[int, float]] = {}
    for kept, gone in nearest(facts.similarity, block.experts).items():
        weighed = {one: float(saliency_E[one]) for one in sorted((kept, *gone)) if saliency_E[one] > 0}
        total = sum(weighed.values())
        if weighed.keys() - {kept}:
            merged[kept] = {one: weight / total for one, weight in weighed.items()}
    return block.model_copy(update={"merged": merged})


def _check_explicit(criterion: ExplicitExperts, cut: Cut) -> None:
    for block in cut.blocks:
        named = criterion.blocks.get(block.block)
        if named is not None and block.experts is not None and tuple(sorted(named)) != block.experts:
            raise InvalidSpec(
                f"structure.experts.criterion.blocks keeps {len(named)} experts of block {block.block} that "
                f"are not shared evenly over the groups of its router; keep equally many of each group",
                f"{FIELD}.criterion.blocks.{block.block}",
            )
