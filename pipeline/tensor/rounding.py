"""Weights rounded to numbers of few bits, with a scale for each group of weights of a row.

Everything is symmetric about zero: a weight that is zero becomes the code 0, which is read back as zero
whatever its scale. The scales follow from the weights alone, so whoever has these weights finds them again.

Shape legend: O out_features, I in_features, G groups of a row, C columns of a column block.
"""

import torch
from torch import Tensor

from pipeline.tensor.obs import COLUMN_BLOCK_SIZE, InverseFactor, Settle, settle_columns

FP8_LARGEST = 448.0  # of E4M3
WIDTH = 2  # codes -8 to 7 reach from the largest weight to its opposite: 15 steps, 7.5 on each side


def integer_scales(weight_OI: Tensor, *, bits: int, group_size: int | None) -> Tensor:
    """Returns the scales [O, G] in the type of the weights: the largest absolute weight of a group over half
    the number of steps between the least and the largest code. `group_size` divides I; None is one group for
    each row. Scales are never 0."""
    groups_OGC = weight_OI.float().unflatten(1, (-1, group_size or weight_OI.shape[1]))
    return _stored(groups_OGC.abs().amax(dim=2) / ((2**bits - 1) / WIDTH), like=weight_OI)


def fp8_scales(weight_OI: Tensor, *, by_row: bool) -> Tensor:
    """Returns the scales of E4M3 in the type of the weights: [O, 1] by row, or [1] for the whole matrix.
    Scales are never 0."""
    largest = weight_OI.float().abs()
    largest = largest.amax(dim=1, keepdim=True) if by_row else largest.amax().reshape(1)
    return _stored(largest / FP8_LARGEST, like=weight_OI)


def nearest(weight_OC: Tensor, scale_OC: Tensor, *, bits: int) -> Tensor:
    """Returns the nearest multiples of the scales that codes of `bits` bits have, float32 [O, C]. `scale_OC`:
    of each weight, or of a shape that broadcasts to that."""
    scale_OC = scale_OC.float()
    codes_OC = (weight_OC.float() / scale_OC).round().clamp(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    return codes_OC * scale_OC


def round_by_obs(weight_OI: Tensor, factor: InverseFactor, scale_OG: Tensor, *, bits: int) -> Tensor:
    """GPTQ (Frantar et al., arXiv 2210.17323): rounds column by column, and the columns after a column
    compensate the error that its rounding makes in the linear's output. Returns float32 [O, I].

    Weights that are zero stay zero. What compensation would give them is an error like that of rounding, and
    is passed on to the columns after them, so that in the end kept weights alone compensate. A feature that
    is zero for every token takes no part: its weights are rounded to the nearest code.
    """
    pruned_OI = weight_OI == 0
    weight_OI = weight_OI.float().clone()
    group_size = weight_OI.shape[1] // scale_OG.shape[1]

    def begin(block_OC: Tensor, first: int) -> Settle:
        def settle(column_O: Tensor, i: int) -> Tensor:
            scale_O = scale_OG[:, (first + i) // group_size]
            return nearest(column_O, scale_O, bits=bits).masked_fill(pruned_OI[:, first + i], 0)

        return settle

    settle_columns(weight_OI, factor, begin, column_block_size=COLUMN_BLOCK_SIZE)
    return weight_OI


def _stored(scale: Tensor, *, like: Tensor) -> Tensor:
    return scale.to(like.dtype).clamp(min=torch.finfo(like.dtype).smallest_normal)
