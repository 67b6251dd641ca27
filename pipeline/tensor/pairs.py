"""Pairs for an encoder-decoder, each as one row of numbers: what the encoder reads, and then what the decoder
writes.

A token that the decoder writes stands there as the complement of its id, which is negative. So a row tells by
itself where it is to be parted, and goes wherever a sequence of tokens goes.

Shape legend: E tokens that the encoder reads, D tokens that the decoder writes, L = E + D.
"""

import torch
from torch import Tensor


def joined(read_E: Tensor, written_D: Tensor) -> Tensor:
    """Returns a pair as one row, int64 [L]."""
    return torch.cat((read_E, ~written_D))


def parted(pair_L: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the tokens [E] that the encoder reads, and those [D] that the decoder writes."""
    written_L = pair_L < 0
    return pair_L[~written_L], ~pair_L[written_L]
