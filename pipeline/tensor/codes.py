"""Masks of N:M as numbers: a code for each group, as many codes to a byte as fit.

A group's code is the place of its mask among all that keep N of M, in the order of `soft_masks.candidates`.
Of C candidates, k codes go into a byte, k being the largest with C^k <= 256: code k·i + j is digit j of byte
i to the base C, lowest digit first. Digits behind the last code are 0. 2:4 has 6 candidates and so three
codes a byte (6³ = 216): 0.667 bit a weight, and any group can be read by itself.

Shape legend: O out_features, I in_features, M weights of a group, G groups of a matrix in row-major order,
C candidates, B bytes, n groups of a chunk.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from pipeline.errors import CorruptObject
from pipeline.tensor.soft_masks import candidates

BYTE = 256
CHUNK = 1 << 20  # groups at a time; their indices take more than the masks


def has_codes(keep: int, group: int) -> bool:
    """Whether the code of one group fits a byte: all groups up to 9, and some beyond."""
    return math.comb(group, keep) <= BYTE


def codes_per_byte(count: int) -> int:
    """How many codes of so many candidates go into a byte, at least 1. `count`: 2 to 256."""
    assert 2 <= count <= BYTE, f"codes of {count} candidates do not fit a byte"
    codes = 1
    while count ** (codes + 1) <= BYTE:
        codes += 1
    return codes


def packed_bytes(codes: int, *, count: int) -> int:
    """Bytes of so many codes."""
    return -(-codes // codes_per_byte(count))


def pack_codes(codes_G: Tensor, *, count: int) -> Tensor:
    """Codes below `count`, uint8 [G], as bytes: uint8 [B]."""
    assert codes_G.dtype == torch.uint8, f"codes are uint8, got {codes_G.dtype}"
    packed_B = torch.zeros(packed_bytes(len(codes_G), count=count), dtype=torch.uint8)
    for digit in range(codes_per_byte(count)):
        part = codes_G[digit :: codes_per_byte(count)]
        packed_B[: len(part)] += part * count**digit
    return packed_B


def unpack_codes(packed_B: Tensor, codes: int, *, count: int) -> Tensor:
    """The first so many codes, uint8 [G]. Raises CorruptObject when the bytes are not those of so many."""
    length, per_byte = packed_bytes(codes, count=count), codes_per_byte(count)
    if packed_B.dtype != torch.uint8 or packed_B.shape != (length,):
        raise CorruptObject(
            f"{codes} codes of {count} candidates are uint8 [{length}], got {packed_B.dtype} "
            f"{list(packed_B.shape)}"
        )
    codes_G = torch.empty(length * per_byte, dtype=torch.uint8)
    rest_B = packed_B.short()  # 256 is no uint8
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
    """A mask whose every group keeps `keep` of `group` weights, as packed codes: uint8 [B]."""
    return pack_codes(_codes(keep_OI, keep=keep, group=group), count=math.comb(group, keep))


def unpack_groups(packed_B: Tensor, shape: Sequence[int], *, keep: int, group: int) -> Tensor:
    """The mask of that shape, bool [O, I]. Raises CorruptObject when the bytes are not those of one."""
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
    """By how many weights were kept before `place`: candidates that agree so far, keep the weight there, and
    so come before all that do not. uint8 [keep + 1]; numbers above 255 are those of places never reached."""
    left = [keep - 1 - kept for kept in range(keep + 1)]
    counts = [math.comb(group - 1 - place, rest) if rest >= 0 else 0 for rest in left]
    return torch.tensor([min(count, BYTE - 1) for count in counts], dtype=torch.uint8)
