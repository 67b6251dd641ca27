"""Checks that pruned weights are zero and that groups of N:M are complete.

Shape legend: O out_features, I in_features, G groups of consecutive inputs, M positions within a group.
Weights keep their stored orientation, which `weight` and `keep` share. Only N:M requires [O, I].
"""

import torch
from torch import Tensor

from pipeline.canonical import sha256_hex
from pipeline.tensor.packing import pack_keep

CHUNK = 1 << 24  # weights that are compared at a time; a comparison needs as many bytes


def keep_sha256(keep_OI: Tensor) -> str:
    """The SHA-256 of the packed bytes of keep [O, I] (packing.py), which the stored keep tensor hashes to as
    well.

    The shape is not part of it; the checkpoint stores the shape beside the hash.
    """
    return sha256_hex(pack_keep(keep_OI.cpu()).numpy().tobytes())


def first_revived(weight: Tensor, keep: Tensor) -> tuple[int, ...] | None:
    """The position of the first weight, in row-major order, that is pruned and not zero. NaN is not zero."""
    assert weight.shape == keep.shape, f"weight {list(weight.shape)} under keep {list(keep.shape)}"
    rows = weight.reshape(1, -1) if weight.dim() < 2 else weight
    keep_rows = keep.reshape(1, -1) if keep.dim() < 2 else keep
    step = max(CHUNK // max(rows[0].numel(), 1), 1) if len(rows) else 1
    for start in range(0, len(rows), step):
        part = rows[start : start + step]
        revived = part.bool() > keep_rows[start : start + step]  # 14 times as fast as (part != 0) & ~keep
        if revived.any():
            first = int(revived.reshape(-1).view(torch.uint8).argmax())
            position = tuple(int(i) for i in torch.unravel_index(torch.tensor(first), part.shape))
            position = (position[0] + start, *position[1:])
            return position if weight.dim() >= 2 else position[1:]
    return None


def count_zeros(weight: Tensor, keep: Tensor) -> int:
    """The number of pruned weights that are zero."""
    return int((~(weight.bool() | keep)).sum())


def first_bad_group(keep_OI: Tensor, *, keep: int, group: int) -> tuple[int, int] | None:
    """The row and index of the first group of N:M that does not keep exactly `keep` of its weights.

    Inputs that do not fill whole groups count as one more group, which is bad.
    """
    whole = keep_OI.shape[1] // group * group
    counts_OG = keep_OI[:, :whole].unflatten(1, (-1, group)).sum(dim=-1, dtype=torch.int16)
    bad_OG = counts_OG != keep
    if whole != keep_OI.shape[1]:
        bad_OG = torch.cat([bad_OG, bad_OG.new_ones(len(bad_OG), 1)], dim=1)
    if not bad_OG.any():
        return None
    row, index = divmod(int(bad_OG.reshape(-1).view(torch.uint8).argmax()), bad_OG.shape[1])
    return row, index
