"""The importance of each part of a model, by any criterion; the parts with the largest scores stay.

Shape legend: H hidden size, A query heads, F FFN channels, E experts, G FFN channels of an expert.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # the API imports specs, and has no numpy
    import numpy as np
    from numpy.typing import NDArray

    Scores = NDArray[np.float64]


@dataclass(frozen=True)
class BlockScores:
    """The scores of one block; None for parts that it does not have."""

    heads_A: "Scores | None" = None
    ffn_F: "Scores | None" = None
    shared_ffn_F: "Scores | None" = None
    experts_E: "Scores | None" = None
    expert_ffn_EG: "Scores | None" = None

    def mapped(self, change: "Callable[[Scores], Scores]") -> "BlockScores":
        """Applies a function to all scores, in the order of the fields."""
        return BlockScores(
            *(None if one is None else change(one) for one in (getattr(self, f.name) for f in fields(self)))
        )


@dataclass(frozen=True)
class ModelScores:
    """The scores of a model."""

    hidden_H: "Scores"
    blocks: tuple[BlockScores, ...]
