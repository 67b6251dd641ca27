"""N:M masks as numbers: each group has a code, and as many codes as fit share a byte.

A group's code is the index of its mask among all masks that keep N of M, in the order of
`soft_masks.candidates`. With C candidates, a byte holds k codes, where k is the largest number with C^k <=
256: code k·i + j is digit j of byte i in base C, lowest digit first. Digits after the last code are 0. 2:4
has 6 candidates and so three codes per byte (6³ = 216): 0.667 bits per weight, and any group can be read on
its own.

Shape legend: O out_features, I in_features, M weights of a group, G groups of a matrix in row-major order, C
candidates, B bytes, n groups of a chunk.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from pipeline.errors import CorruptObject
from pipeline.tensor.soft_masks import candidates

BYTE = 256
CHUNK = 1 << 20  # groups at a time, because their indices take more memory than the masks


def has_codes(keep: int, group: int) -> bool:
    """Tells whether the code of one group fits into a byte: true for all groups up to 10, and for some larger
    ones."""
    return math.comb(group, keep) <= BYTE


def codes_per_byte(count: int) -> int:
    """The number of codes that one byte holds, at least 1, if there are `count` candidates (2 to 256)."""
    assert 2 <= count <= BYTE, f"codes of {count} candidates do not fit a byte"
    codes = 1
    while count ** (codes + 1) <= BYTE:
        codes += 1
    return codes


def packed_bytes(codes: int, *, count: int) -> int:
    """The number of bytes that `codes` packed codes take."""
    return -(-codes // codes_per_byte(count))


def pack_codes(codes_G: Tensor, *, count: int) -> Tensor:
    """Packs codes below `count`, uint8 [G], into bytes, uint8 [B]."""
    assert codes_G.dtype == torch.uint8, f"codes are uint8, got {codes_G.dtype}"
    packed_B = torch.zeros(packed_bytes(len(codes_G), count=count), dtype=torch.uint8)
    for digit in range(codes_per_byte(count)):
        part = codes_G[digit :: codes_per_byte(count)]
        packed_B[: len(part)] += part * count**digit
    return packed_B


def unpack_codes(packed_B: Tensor, codes: int, *, count: int) -> Tensor:
    """Returns the first `codes` codes, uint8 [G]. Raises CorruptObject when the bytes cannot hold exactly
    these."""
    length, per_byte = packed_bytes(codes, count=count), codes_per_byte(count)
    if packed_B.dtype != torch.uint8 or packed_B.shape != (length,):
        raise CorruptObject(
            f"{codes} codes of {count} candidates are uint8 [{length}], got {packed_B.dtype} "
            f"{list(packed_B.shape)}"
        )
    codes_G = torch.empty(length * per_byte, dtype=torch.uint8)
    rest_B = packed_B.short()  # uint8 cannot hold the divisor 256
    for digit in range(per_byte):
        higher_B = rest_B // count
        codes_G[digit::per_byte] = rest_B - higher_B * count
        rest_B = higher_B
    if rest_B.any():
        place = int((rest_B != 0).view(torch.uint8).argmax())
        raise CorruptObject(
            f"byte {place} is {int(packed_B[place])}, and {per_byte} codes of {count} candidates are at most "
            f"{count**per_byte - 1}"
        )
    if codes_G[codes:].any():
        raise CorruptObject(f"the last byte has digits set behind the last of {codes} codes")
    return codes_G[:codes]


def pack_groups(keep_OI: Tensor, *, keep: int, group: int) -> Tensor:
    """Packs a mask in which every group keeps `keep` of `group` weights into codes: uint8 [B]."""
    return pack_codes(_codes(keep_OI, keep=keep, group=group), count=math.comb(group, keep))


def unpack_groups(packed_B: Tensor, shape: Sequence[int], *, keep: int, group: int) -> Tensor:
    """Returns the mask of this shape, bool [O, I]. Raises CorruptObject when the bytes do not encode one."""
    masks_CM = candidates(keep, group)
    codes_G = unpack_codes(packed_B, math.prod(shape) // group, count=len(masks_CM))
    keep_GM = torch.empty(len(codes_G), group, dtype=torch.bool)
    for start in range(0, len(codes_G), CHUNK):
        codes_n = codes_G[start : start + CHUNK]
        torch.index_select(masks_CM, 0, codes_n.int(), out=keep_GM[start : start + len(codes_n)])
    return keep_GM.reshape(*shape)


def _codes(keep_OI: Tensor, *, keep: int, group: int) -> Tensor:
    """The code of each group, uint8 [G]."""
    keep_GM = keep_OI.cpu().reshape(-1, group)
    codes_G = torch.empty(len(keep_GM), dtype=torch.uint8)
    earlier = [_earlier(place, keep=keep, group=group) for place in range(group)]
    for start in range(0, len(keep_GM), CHUNK):
        part_nM = keep_GM[start : start + CHUNK]
        code_n = torch.zeros(len(part_nM), dtype=torch.uint8)
        kept_n = torch.zeros(len(part_nM), dtype=torch.int32)
        for place, earlier_N in enumerate(earlier):
            here_n = part_nM[:, place]
            code_n += torch.index_select(earlier_N, 0, kept_n) * ~here_n
            kept_n += here_n
        codes_G[start : start + CHUNK] = code_n
    return codes_G


def _earlier(place: int, *, keep: int, group: int) -> Tensor:
    """The number of candidates that come before all those which prune the weight at `place`, by how many
    weights were kept before it: they agree so far, and keep that weight. uint8 [keep + 1]; numbers above 255
    belong to places that are never reached, and are capped."""
    left = [keep - 1 - kept for kept in range(keep + 1)]
    counts = [math.comb(group - 1 - place, rest) if rest >= 0 else 0 for rest in left]
    return torch.tensor([min(count, BYTE - 1) for count in counts], dtype=torch.uint8)
