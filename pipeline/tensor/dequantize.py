"""Weights from the codes of formats in which models are published.

MXFP4 is defined by the OCP Microscaling Formats specification (version 1.0): 32 values share a scale, which
is a power of two in one byte (E8M0, biased by 127), and each has four bits (E2M1: sign, two bits of exponent,
one of mantissa). Two values share a byte, the first in its lower half. FP8 in blocks is that of DeepSeek-V3:
every 128 × 128 weights share a float32 scale.

Shape legend: O out_features, I in_features, G groups of 32 input features, B the 16 bytes of a group, P and Q
blocks of 128 along O and I.
"""

import torch
from torch import Tensor

GROUP = 32  # values that share a scale in MXFP4
BLOCK = 128  # rows and columns that share a scale in FP8
_BIAS = 127
_E2M1 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)  # the magnitudes of codes 0 to 7; 8 to 15 are negative


def from_mxfp4(codes_OGB: Tensor, scales_OG: Tensor) -> Tensor:
    """Returns the weights of MXFP4 codes, bfloat16 [O, I], I = 32·G. Every one of them is exact; those beyond
    the range of bfloat16 are infinite, and a scale of 255, which means NaN, gives NaN."""
    values = torch.tensor([*_E2M1, *(-one for one in _E2M1)])
    halves_OGB2 = torch.stack([codes_OGB & 0xF, codes_OGB >> 4], dim=-1)
    values_OGN = values[halves_OGB2.flatten(-2).int()]
    scaled_OGN = torch.ldexp(values_OGN, scales_OG.int()[..., None] - _BIAS)
    weight_OGN = torch.where(scales_OG[..., None] == 255, torch.nan, scaled_OGN)
    return weight_OGN.flatten(-2).to(torch.bfloat16)


def from_fp8(codes_OI: Tensor, scales_PQ: Tensor) -> Tensor:
    """Returns the weights of FP8 codes, float8_e4m3fn, with a scale for each 128 × 128 of them, rounded to
    bfloat16 [O, I]. The last blocks may be smaller."""
    rows, columns = codes_OI.shape
    scales_OI = scales_PQ.float().repeat_interleave(BLOCK, 0)[:rows].repeat_interleave(BLOCK, 1)[:, :columns]
    return (codes_OI.float() * scales_OI).to(torch.bfloat16)
