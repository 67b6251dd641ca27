"""Experts that are weighted means of several.

The labels of dimensions say which of them count an expert's inner channels, so that no code here is specific
to a model type. The mean of matrices whose channels stand in different orders would mix channels that have
nothing in common; so the channels of every other expert are first brought into the order of the one that
stays (tensor/alignment.py).

Shape legend: F inner channels of an expert, W stored rows or columns of one channel, N weights of a channel.
"""

from collections.abc import Callable, Collection, Iterator, Mapping

import torch
from torch import Tensor

from pipeline.architecture.row import Architecture
from pipeline.errors import UnsupportedCheckpoint
from pipeline.tensor.alignment import alignment

# The labels that count inner channels, and how many stored rows or columns each channel has.
CHANNELS: Mapping[str, int] = {"expert_ffn": 1, "expert_pairs": 2}


def merged_experts(
    row: Architecture,
    names: Collection[str],
    read: Callable[[str], Tensor],
    merged: Mapping[int, Mapping[int, float]],
) -> Iterator[tuple[str, Tensor]]:
    """Yields the tensors of experts that others were merged into, whole and in their stored type, by name
    inside the block. `names`: all tensors of the block; `read` returns one of them; `merged`: see BlockCut.
    Raises UnsupportedCheckpoint if no dimension of these tensors counts inner channels."""
    experts = row.experts
    assert experts is not None, "only mixtures merge experts"
    for kept, weights in merged.items():
        place = f"{experts.stored}.{kept}."
        own = {name.removeprefix(place): read(name) for name in names if name.startswith(place)}
        axes = {part: _channel_axis(row, f"{place}{part}") for part in own}
        means = {part: torch.zeros(tensor.shape) for part, tensor in own.items()}
        for expert, weight in weights.items():
            theirs, order_F = own, None
            if expert != kept:
                theirs = {part: read(f"{experts.stored}.{expert}.{part}") for part in own}
                order_F = alignment(_by_channel(own, axes), _by_channel(theirs, axes))
            for part, tensor in theirs.items():
                means[part] += weight * _ordered(tensor.float(), axes[part], order_F)
        for part, mean in means.items():
            yield f"{place}{part}", mean.to(own[part].dtype)


def _channel_axis(row: Architecture, name: str) -> tuple[int, int] | None:
    """Returns the dimension of a tensor that counts inner channels, and W; None if there is none."""
    labels = row.labels(name)
    return next(((i, CHANNELS[label]) for i, label in enumerate(labels) if label in CHANNELS), None)


def _by_channel(tensors: Mapping[str, Tensor], axes: Mapping[str, tuple[int, int] | None]) -> Tensor:
    """Returns all weights of each inner channel of an expert, [F, N]."""
    found = []
    for part, tensor in tensors.items():
        axis = axes[part]
        if axis is not None:
            at, wide = axis
            found.append(tensor.float().movedim(at, 0).reshape(tensor.shape[at] // wide, -1))
    if not found:
        raise UnsupportedCheckpoint(
            "no dimension of the experts' tensors counts their inner channels, so experts cannot be merged; "
            "set structure.experts.others to dropped",
            "spec.structure.experts.others",
        )
    return torch.cat(found, dim=1)


def _ordered(tensor: Tensor, axis: tuple[int, int] | None, order_F: Tensor | None) -> Tensor:
    """Returns a tensor with its inner channels in another order; without an order as it is."""
    if axis is None or order_F is None:
        return tensor
    at, wide = axis
    places = (order_F[:, None] * wide + torch.arange(wide)).flatten()
    return tensor.index_select(at, places)
