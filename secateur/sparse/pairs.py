"""Weights with two values in every four columns (2:4), for kernels that follow codes instead of bits.

R rows, C columns, N values.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from secateur.sparse.packed import BLOCK, Packed

LEAST_DENSITY = 0.45  # a weight with fewer values reads less by its bits, though it may fit the pattern
_FOURS = 16  # the ways in which four columns have values


@dataclass(frozen=True, eq=False)
class Pairs:
    """A packed weight in which every four columns have two values.

    `packed`: zeros are added where four columns had fewer. `codes`: uint8 [R, C / 8], two bits for each value
    from the lowest ones on, which tell in which of its four columns it stands. `added`: int64, the places of
    these zeros among the values, which are few.
    """

    packed: Packed
    codes: Tensor
    added: Tensor


def paired(packed: Packed) -> Pairs | None:
    """The weight as pairs; None where it does not have the pattern, where it has too few values for that to
    be worth while, or where 64 does not divide its columns."""
    bits = packed.bits.numpy()
    if packed.shape[1] % BLOCK or packed.density < LEAST_DENSITY or bool((_COUNTS[bits] > 2).any()):
        return None
    full = _FULL[bits]
    theirs = _flags(bits)[_flags(full)]
    values = torch.zeros(theirs.shape[0], dtype=packed.values.dtype)
    values[torch.from_numpy(theirs)] = packed.values
    whole = Packed(packed.shape, torch.from_numpy(full), values, packed.scales, packed.group)
    return Pairs(whole, torch.from_numpy(_CODES[full]), torch.from_numpy(np.flatnonzero(~theirs)))


def without(packed: Packed, added: Tensor) -> Packed:
    """The packed weight without those of its values that were added to make pairs."""
    theirs = np.ones(packed.values.shape[0], bool)
    theirs[added.numpy()] = False
    kept = _flags(packed.bits.numpy())
    kept[kept] = theirs
    bits = torch.from_numpy(np.packbits(kept, axis=1, bitorder="little"))
    return Packed(packed.shape, bits, packed.values[torch.from_numpy(theirs)], packed.scales, packed.group)


def _flags(bits: NDArray[np.uint8]) -> NDArray[np.bool_]:
    return np.unpackbits(bits, axis=1, bitorder="little").astype(bool)


def _tables() -> tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.uint8]]:
    """By a byte of bits, which is eight columns: the most values that one of its two fours has; the byte with
    two values or more in each; and the codes of a byte with two values in each."""
    counts, full, codes = (np.zeros(_FOURS * _FOURS, np.uint8) for _ in range(3))
    for byte in range(_FOURS * _FOURS):
        for four in range(2):
            places = [place for place in range(4) if byte >> (4 * four + place) & 1]
            counts[byte] = max(counts[byte], len(places))
            free = [place for place in range(4) if place not in places]
            chosen = sorted(places + free[: max(0, 2 - len(places))])
            full[byte] |= sum(1 << (4 * four + place) for place in chosen)
            codes[byte] |= sum(place << (4 * four + 2 * i) for i, place in enumerate(chosen[:2]))
    return counts, full, codes


_COUNTS, _FULL, _CODES = _tables()
