"""The overlap of two masks of one matrix.

Shape legend: O out_features, I in_features, G groups of a row, M weights of a group.
"""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Overlap:
    """`groups`: the share of the groups whose masks are equal. `kept`: the share of the kept weights that
    both keep: 2 · both / (ours + theirs), and 1 where neither keeps any."""

    groups: float
    kept: float


def overlap(ours_OI: Tensor, theirs_OI: Tensor, *, group: int) -> Overlap:
    """Compares two masks, bool [O, I], in groups of `group` consecutive inputs; 1 compares weight by
    weight."""
    assert ours_OI.shape == theirs_OI.shape, f"masks of {list(ours_OI.shape)} and {list(theirs_OI.shape)}"
    equal_OG = (ours_OI == theirs_OI).unflatten(1, (-1, group)).all(dim=-1)
    kept = int(ours_OI.sum()) + int(theirs_OI.sum())
    both = int((ours_OI & theirs_OI).sum())
    return Overlap(
        groups=int(equal_OG.sum()) / max(equal_OG.numel(), 1), kept=2 * both / kept if kept else 1.0
    )
