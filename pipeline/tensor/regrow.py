"""Keep tensors that change during training: weights grow and are pruned at constant or rising sparsity.

Weight, keep and gradient of one linear have the same shape, in any orientation. Among equal candidates the
lowest index (row-major) is taken first, so that equal tensors give equal keep tensors on every worker.
"""

import math

import torch
from torch import Tensor

from pipeline.errors import NumericalError
from pipeline.tensor.masks import smallest


def regrow(weight: Tensor, keep: Tensor, gradient: Tensor, share: float) -> Tensor:
    """Returns a new keep: the round(share · kept) smallest kept |weight| are pruned, and equally many pruned
    weights with the largest |gradient| grow back (RigL, Evci et al., arXiv 1911.11134). The number of kept
    weights is constant.

    A weight that was just pruned grows back only when too few others are pruned. `gradient` is that of the
    whole weight, pruned places included. Grown weights start at zero: the caller must zero the pruned ones.
    Raises NumericalError for weights or gradients that are not finite.
    """
    moved = round(share * int(keep.sum()))
    dropped = _first(weight.abs(), among=keep, count=moved, what="weights")
    pruned = ~keep
    grown = _first(-gradient.abs(), among=pruned, count=min(moved, int(pruned.sum())), what="gradients")
    back = _first(-gradient.abs(), among=dropped, count=moved - int(grown.sum()), what="gradients")
    return (keep & ~dropped) | grown | back


def prune_to(weight: Tensor, keep: Tensor, sparsity: float) -> Tensor:
    """Returns a new keep with round(weights · sparsity) pruned: the smallest kept |weight| are pruned, none
    grows back.

    Where as many are pruned already, keep is unchanged. Raises NumericalError for weights that are not
    finite.
    """
    more = round(keep.numel() * sparsity) - int((~keep).sum())
    return keep & ~_first(weight.abs(), among=keep, count=max(more, 0), what="weights")


def decayed_share(share: float, step: int, *, total: int, until: float) -> float:
    """The share of the kept weights that moves after `step` of `total` steps: a cosine, 0 from `until` on."""
    done = step / (total * until)
    return share * (1 + math.cos(math.pi * done)) / 2 if done < 1 else 0.0


def cubic_sparsity(step: int, *, total: int, until: float, start: float, end: float) -> float:
    """The sparsity after `step` of `total` steps, from `start` to `end` at `until` of them; steep at first
    (Zhu and Gupta, arXiv 1710.01878). A linear that is already sparser than `end` keeps its sparsity."""
    left = max(1 - step / (total * until), 0.0)
    return max(start, end + (start - end) * left**3)


def _first(score: Tensor, *, among: Tensor, count: int, what: str) -> Tensor:
    """Returns bool, True at the `count` smallest scores `among` the allowed places, of which there are at
    least `count`."""
    if count == 0:
        return torch.zeros_like(among)
    if not torch.isfinite(score).all():
        raise NumericalError(f"keep cannot be changed: {what} hold inf or NaN; lower learning_rate.peak")
    if count == among.numel():
        return among.clone()
    competitors = score.masked_fill(~among, torch.inf).reshape(1, -1)
    return smallest(competitors, each=count, extra=0).reshape(among.shape)
