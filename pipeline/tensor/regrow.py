"""Keep tensors that change in training: grow and prune at constant sparsity, and ever sparser.

Weight, keep and gradient of one linear have the same shape, in any orientation. Equal candidates are taken
lowest index first (row-major), so that equal tensors give equal keep tensors on every worker.
"""

import math

import torch
from torch import Tensor

from pipeline.errors import NumericalError
from pipeline.tensor.masks import smallest


def regrow(weight: Tensor, keep: Tensor, gradient: Tensor, share: float) -> Tensor:
    """New keep: round(share · kept) of the smallest kept |weight| go, as many pruned ones with the largest
    |gradient| come (RigL, Evci et al., arXiv 1911.11134). The number of kept weights stays.

    What has just gone comes back only when fewer are pruned than must come. `gradient` is that of the whole
    weight, pruned places included. What comes starts at zero: dropped weights are for the caller to zero.
    Raises NumericalError for weights or gradients that are not finite.
    """
    moved = round(share * int(keep.sum()))
    dropped = _first(weight.abs(), among=keep, count=moved, what="weights")
    pruned = ~keep
    grown = _first(-gradient.abs(), among=pruned, count=min(moved, int(pruned.sum())), what="gradients")
    back = _first(-gradient.abs(), among=dropped, count=moved - int(grown.sum()), what="gradients")
    return (keep & ~dropped) | grown | back


def prune_to(weight: Tensor, keep: Tensor, sparsity: float) -> Tensor:
    """New keep with round(weights · sparsity) pruned: the smallest kept |weight| go, none comes back.

    Where as many are pruned already, keep stays as it is. Raises NumericalError for weights that are not
    finite.
    """
    more = round(keep.numel() * sparsity) - int((~keep).sum())
    return keep & ~_first(weight.abs(), among=keep, count=max(more, 0), what="weights")


def decayed_share(share: float, step: int, *, total: int, until: float) -> float:
    """Share of the kept weights that moves after `step` of `total` steps: a cosine, 0 from `until` on."""
    done = step / (total * until)
    return share * (1 + math.cos(math.pi * done)) / 2 if done < 1 else 0.0


def cubic_sparsity(step: int, *, total: int, until: float, start: float, end: float) -> float:
    """Sparsity after `step` of `total` steps, from `start` to `end` at `until` of them; steep at first (Zhu
    and Gupta, arXiv 1710.01878). A linear that is sparser than `end` already stays so."""
    left = max(1 - step / (total * until), 0.0)
    return max(start, end + (start - end) * left**3)


def _first(score: Tensor, *, among: Tensor, count: int, what: str) -> Tensor:
    """bool, True at the `count` smallest scores `among` those allowed, which are at least as many."""
    if count == 0:
        return torch.zeros_like(among)
    if not torch.isfinite(score).all():
        raise NumericalError(f"keep cannot be changed: {what} hold inf or NaN; lower learning_rate.peak")
    if count == among.numel():
        return among.clone()
    competitors = score.masked_fill(~among, torch.inf).reshape(1, -1)
    return smallest(competitors, each=count, extra=0).reshape(among.shape)
