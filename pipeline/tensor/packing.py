"""Keep tensors at one bit per weight.

Weight 8·i + j of a keep tensor, in row-major order, is bit j of byte i, lowest bit first, as
`numpy.packbits(keep, axis=None, bitorder="little")` writes it. Unused bits of the last byte are 0.

Shape legend: O out_features, I in_features, B bytes.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from pipeline.errors import CorruptObject


def pack_keep(keep_OI: Tensor) -> Tensor:
    """Packs a bool tensor of any shape into bits: uint8 [B], B = ceil(number of weights / 8)."""
    assert keep_OI.dtype == torch.bool, f"keep tensors are bool, got {keep_OI.dtype}"
    if keep_OI.device.type == "cpu":
        return torch.from_numpy(np.packbits(keep_OI.numpy(), axis=None, bitorder="little"))
    bits = functional.pad(keep_OI.reshape(-1).view(torch.uint8), (0, -keep_OI.numel() % 8))
    places_8 = torch.arange(8, dtype=torch.uint8, device=keep_OI.device)
    return (bits.view(-1, 8) << places_8).sum(dim=1, dtype=torch.uint8)


def unpack_keep(packed_B: Tensor, shape: Sequence[int]) -> Tensor:
    """Returns the bool tensor of this shape. Raises CorruptObject when the bytes do not hold such a
    tensor."""
    weights = math.prod(shape)
    length = -(-weights // 8)
    if packed_B.dtype != torch.uint8 or packed_B.shape != (length,):
        raise CorruptObject(
            f"a packed keep tensor of shape {tuple(shape)} is uint8 [{length}], "
            f"got {packed_B.dtype} {list(packed_B.shape)}"
        )
    bits = torch.from_numpy(np.unpackbits(packed_B.cpu().numpy(), bitorder="little"))
    if bits[weights:].any():
        raise CorruptObject(
            f"a packed keep tensor of shape {tuple(shape)} has bits set behind its last weight"
        )
    return bits[:weights].view(torch.bool).reshape(*shape).to(packed_B.device)
