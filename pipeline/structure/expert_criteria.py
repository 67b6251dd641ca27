"""Criteria that choose experts. A new one is a class here and a name in the union."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from pipeline.canonical import Frozen
from pipeline.errors import InvalidSpec
from pipeline.structure.base import Known
from pipeline.structure.expert_facts import ExpertFacts

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Scores = NDArray[np.float64]

FIELD = "spec.structure.experts"


class ExpertCriterionBase(Frozen):
    """A rule that scores the experts of each block; those with the largest scores stay."""

    @property
    def needs_samples(self) -> bool:
        """Tells whether the rule needs what experts give on calibration samples."""
        return True

    def scores(self, known: Known, experts: Sequence[int]) -> "list[Scores | None]":
        """Returns scores by block. `experts`: how many each block has; None for a block without any."""
        return [None if one is None else self.of_block(one) for one in known.experts()]

    def of_block(self, facts: ExpertFacts) -> "Scores":
        """Returns the scores of a block's experts from what is known of them."""
        raise AssertionError(f"{type(self).__name__} does not define its scores")


class Reap(ExpertCriterionBase):
    """The mean over an expert's tokens of gate weight times L2 norm of the expert's output (Router-weighted
    Expert Activation Pruning, arXiv 2510.13999)."""

    kind: Literal["reap"] = "reap"

    def of_block(self, facts: ExpertFacts) -> "Scores":
        """Returns what an expert adds to the block's output, on average over its tokens."""
        return facts.saliency


class ExpertTokens(ExpertCriterionBase):
    """The number of tokens that are routed to an expert."""

    kind: Literal["tokens"]

    def of_block(self, facts: ExpertFacts) -> "Scores":
        """Returns counts."""
        return facts.tokens_E


class ExpertActivation(ExpertCriterionBase):
    """The sum over an expert's tokens of the L2 norm of its output, without gate weights (expert activation
    norm, arXiv 2504.05586)."""

    kind: Literal["activation"]

    def of_block(self, facts: ExpertFacts) -> "Scores":
        """Returns sums of norms."""
        return facts.norms_E


class RandomExperts(ExpertCriterionBase):
    """A random choice in each block, for comparison. Equal seeds choose equally."""

    kind: Literal["random"]
    seed: int = Field(default=0, ge=0, description="Seed of the generator.")

    @property
    def needs_samples(self) -> bool:
        """Always false."""
        return False

    def scores(self, known: Known, experts: Sequence[int]) -> "list[Scores | None]":
        """Returns scores uniform in [0, 1)."""
        import numpy as np

        return [
            np.random.default_rng([self.seed, block]).random(count) if count else None
            for block, count in enumerate(experts)
        ]


class ExplicitExperts(ExpertCriterionBase):
    """The experts that stay, named one by one: `blocks` has their numbers for each block with experts."""

    kind: Literal["explicit"]
    blocks: dict[Annotated[int, Field(ge=0)], tuple[Annotated[int, Field(ge=0)], ...]] = Field(min_length=1)

    @property
    def needs_samples(self) -> bool:
        """Always false."""
        return False

    def scores(self, known: Known, experts: Sequence[int]) -> "list[Scores | None]":
        """Returns 1 for experts that stay and 0 for others. Raises InvalidSpec where the blocks or their
        experts are others than the model's."""
        import numpy as np

        have = {block for block, count in enumerate(experts) if count}
        if have != self.blocks.keys():
            raise InvalidSpec(
                f"structure.experts.criterion.blocks names blocks {sorted(self.blocks)}, and those with "
                f"experts are {sorted(have)}; name each of them",
                f"{FIELD}.criterion.blocks",
            )
        found: list[Scores | None] = []
        for block, count in enumerate(experts):
            if not count:
                found.append(None)
                continue
            places = self.blocks[block]
            if max(places) >= count:
                raise InvalidSpec(
                    f"structure.experts.criterion.blocks has expert {max(places)} in block {block}, which "
                    f"has experts 0 to {count - 1}; name others",
                    f"{FIELD}.criterion.blocks.{block}",
                )
            chosen_E = np.zeros(count)
            chosen_E[list(places)] = 1
            found.append(chosen_E)
        return found


ExpertCriterion = Annotated[
    Reap | ExpertTokens | ExpertActivation | RandomExperts | ExplicitExperts, Field(discriminator="kind")
]
