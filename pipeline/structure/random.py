"""Random scores, as a baseline for the other criteria."""

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from pipeline.structure.base import CriterionBase, Known
from pipeline.structure.scores import BlockScores, ModelScores

if TYPE_CHECKING:
    from numpy.random import Generator


class Random(CriterionBase):
    """One set of hidden channels for the whole model, and separate sets in each block for heads and FFN
    channels (Pruning-LLMs). Equal seeds choose equally."""

    kind: Literal["random"]
    seed: int = Field(default=0, ge=0, description="Seed of the generator.")

    def scores(self, known: Known) -> ModelScores:
        """Returns scores uniform in [0, 1)."""
        like = known.shapes()
        hidden_H = self._generator(0).random(like.hidden_H.shape)
        blocks = (self._drawn(block, number) for number, block in enumerate(like.blocks, start=1))
        return ModelScores(hidden_H, tuple(blocks))

    def _drawn(self, like: BlockScores, number: int) -> BlockScores:
        rng = self._generator(number)
        return like.mapped(lambda one: rng.random(one.shape))

    def _generator(self, place: int) -> "Generator":
        import numpy as np

        return np.random.default_rng([self.seed, place])
