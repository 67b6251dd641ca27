"""Learnable N:M masks on CUDA: the two passes of `soft_masks.masked_weight`, each as one Triton kernel.

A program draws the mixtures of a block of groups in registers, from the bits that `noise_bits` has for their
places, and mixes masks there: of the candidates' size it reads logits and writes their gradient, no more.
The backward pass draws again. Every program stores its own sum of squares: equal inputs give equal bits.

Triton comes with torch's CUDA builds; nothing else imports this file.

Shape legend: O out_features, I in_features, M weights of a group, G groups of a matrix in row-major order,
C candidates, B groups of a block, K chunks of noise, P programs. Kernels round C and M up to powers of two.
"""

import functools
import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from pipeline.tensor import soft_masks
from pipeline.tensor.soft_masks import Draw, key_of, noise_factors

_TYPES = (torch.float32, torch.bfloat16, torch.float16)
_MAX_PRODUCT = 1 << 12  # candidates times weights of a group, as rounded: 64 times 64 of 1:64


def takes(weight_OI: Tensor, masks_CM: Tensor) -> bool:
    """Whether the kernels are made for this device, type and pattern."""
    if torch.version.cuda is None or torch.cuda.get_device_capability(weight_OI.device) < (8, 0):
        return False
    return weight_OI.dtype in _TYPES and math.prod(_rounded(masks_CM)) <= _MAX_PRODUCT


def masked_weight(
    weight_OI: Tensor, logits_CG: Tensor, masks_CM: Tensor, draw: Draw
) -> tuple[Tensor, Tensor]:
    """As `soft_masks.masked_weight`."""
    masked_OI = torch.empty_like(weight_OI, memory_format=torch.contiguous_format)
    sizes = constants(masks_CM, draw)
    programs = triton.cdiv(logits_CG.shape[1], sizes["B"])
    squares_P = torch.empty(programs, device=weight_OI.device)
    with torch.cuda.device_of(weight_OI):
        masked_weight_kernel[(programs,)](
            weight_OI.contiguous(), *_drawn(logits_CG, masks_CM, draw), masked_OI, squares_P, **sizes
        )
    return masked_OI, squares_P.sum()


def logits_gradient(
    gradient_OI: Tensor,
    gradient_squares: Tensor,
    weight_OI: Tensor,
    logits_CG: Tensor,
    masks_CM: Tensor,
    draw: Draw,
) -> Tensor:
    """Gradient of the logits [C, G], in their type, from those of what `masked_weight` returned."""
    result_CG = torch.empty_like(logits_CG, memory_format=torch.contiguous_format)
    sizes = constants(masks_CM, draw)
    with torch.cuda.device_of(weight_OI):
        logits_gradient_kernel[(triton.cdiv(logits_CG.shape[1], sizes["B"]),)](
            gradient_OI.contiguous(),
            gradient_squares,
            weight_OI.contiguous(),
            *_drawn(logits_CG, masks_CM, draw),
            result_CG,
            **sizes,
        )
    return result_CG


def constants(masks_CM: Tensor, draw: Draw) -> dict[str, int | bool]:
    """A kernel's constants. A thread has 64 products of mixture and mask at most: none are spilled."""
    candidates, weights = masks_CM.shape
    rounded, width = _rounded(masks_CM)
    block = min(max((1 << 14) // (rounded * width), 8), 256)
    return {
        "CANDIDATES": candidates,
        "WEIGHTS": weights,
        "C": rounded,
        "M": width,
        "B": block,
        "CHUNK": soft_masks.CHUNK,
        "NOISE": draw.key is not None,
        "num_warps": max(rounded * width * block >> 11, 4),
    }


@triton.jit
def masked_weight_kernel(  # type: ignore[no-untyped-def]
    weight_GM, logits_CG, masks_CM, keys_K2, groups, scale, temperature, masked_GM, squares_P,
    CANDIDATES: tl.constexpr, WEIGHTS: tl.constexpr, C: tl.constexpr, M: tl.constexpr, B: tl.constexpr,
    CHUNK: tl.constexpr, NOISE: tl.constexpr,
):  # fmt: skip
    """One block of groups. `keys_K2`: see `noise_factors`."""
    y_CB = _mixture(logits_CG, keys_K2, groups, scale, temperature, CANDIDATES, C, B, CHUNK, NOISE)
    _, mask_BM = _mixed(y_CB, masks_CM, CANDIDATES, WEIGHTS, C, M)
    place_BM, inside_BM = _places(groups, WEIGHTS, M, B)
    own_BM = tl.load(weight_GM + place_BM, mask=inside_BM, other=0).to(tl.float32)
    masked_BM = (own_BM * mask_BM).to(masked_GM.dtype.element_ty)
    tl.store(masked_GM + place_BM, masked_BM, mask=inside_BM)
    rounded_BM = masked_BM.to(tl.float32)
    tl.store(squares_P + tl.program_id(0), tl.sum(rounded_BM * rounded_BM))


@triton.jit
def logits_gradient_kernel(  # type: ignore[no-untyped-def]
    gradient_GM, gradient_squares, weight_GM, logits_CG, masks_CM, keys_K2, groups, scale, temperature,
    result_CG,
    CANDIDATES: tl.constexpr, WEIGHTS: tl.constexpr, C: tl.constexpr, M: tl.constexpr, B: tl.constexpr,
    CHUNK: tl.constexpr, NOISE: tl.constexpr,
):  # fmt: skip
    """One block of groups."""
    y_CB = _mixture(logits_CG, keys_K2, groups, scale, temperature, CANDIDATES, C, B, CHUNK, NOISE)
    kept_CM, mask_BM = _mixed(y_CB, masks_CM, CANDIDATES, WEIGHTS, C, M)
    place_BM, inside_BM = _places(groups, WEIGHTS, M, B)
    own_BM = tl.load(weight_GM + place_BM, mask=inside_BM, other=0).to(tl.float32)
    toward_BM = tl.load(gradient_GM + place_BM, mask=inside_BM, other=0).to(tl.float32)
    toward_BM += 2 * tl.load(gradient_squares).to(tl.float32) * own_BM * mask_BM
    toward_BM *= own_BM
    toward_CB = tl.sum(toward_BM[None, :, :] * kept_CM[:, None, :], axis=2)
    toward_CB -= tl.sum(toward_CB * y_CB, axis=0)[None, :]
    result = toward_CB * y_CB * (scale / temperature)
    place_CB, inside_CB = _logit_places(groups, CANDIDATES, C, B)
    tl.store(result_CG + place_CB, result.to(result_CG.dtype.element_ty), mask=inside_CB)


@triton.jit
def random_bits(place, multiplier, addend):  # type: ignore[no-untyped-def]
    """As `soft_masks.noise_bits`, of places in a chunk."""
    x = place.to(tl.uint32, bitcast=True) * multiplier + addend
    x ^= x >> 16
    x *= 0x7FEB352D
    x ^= x >> 15
    x *= 0x846CA68B
    x ^= x >> 16
    return x


@triton.jit
def _mixture(  # type: ignore[no-untyped-def]
    logits_CG, keys_K2, groups, scale, temperature,
    CANDIDATES: tl.constexpr, C: tl.constexpr, B: tl.constexpr, CHUNK: tl.constexpr, NOISE: tl.constexpr,
):  # fmt: skip
    """y [C, B], 0 for candidates that there are not."""
    place_CB, inside_CB = _logit_places(groups, CANDIDATES, C, B)
    x_CB = tl.load(logits_CG + place_CB, mask=inside_CB, other=0).to(tl.float32) * scale
    if NOISE:
        tl.static_assert(CHUNK % B == 0)
        first = tl.program_id(0).to(tl.int64) * B
        key = keys_K2 + 2 * (first // CHUNK)
        multiplier = tl.load(key).to(tl.uint32, bitcast=True)
        addend = tl.load(key + 1).to(tl.uint32, bitcast=True)
        place_B = (first % CHUNK).to(tl.int32) + tl.arange(0, B)
        bits_CB = random_bits(tl.arange(0, C)[:, None] * CHUNK + place_B[None, :], multiplier, addend)
        uniform_CB = ((bits_CB >> 9).to(tl.float32) + 0.5) * (2.0**-23)
        x_CB -= tl.log(-tl.log(uniform_CB))
    x_CB = tl.where(tl.arange(0, C)[:, None] < CANDIDATES, x_CB / temperature, float("-inf"))
    y_CB = tl.exp(x_CB - tl.max(x_CB, axis=0)[None, :])
    return y_CB / tl.sum(y_CB, axis=0)[None, :]


@triton.jit
def _mixed(  # type: ignore[no-untyped-def]
    y_CB, masks_CM, CANDIDATES: tl.constexpr, WEIGHTS: tl.constexpr, C: tl.constexpr, M: tl.constexpr
):
    """The candidates [C, M] and their mixtures [B, M]."""
    c_C, m_M = tl.arange(0, C), tl.arange(0, M)
    inside_CM = (c_C[:, None] < CANDIDATES) & (m_M[None, :] < WEIGHTS)
    place_CM = c_C[:, None] * WEIGHTS + m_M[None, :]
    kept_CM = tl.load(masks_CM + place_CM, mask=inside_CM, other=0).to(tl.float32)
    return kept_CM, tl.sum(y_CB[:, :, None] * kept_CM[:, None, :], axis=0)


@triton.jit
def _places(groups, WEIGHTS: tl.constexpr, M: tl.constexpr, B: tl.constexpr):  # type: ignore[no-untyped-def]
    """Of weights, in 64 bits: [B, M], and which of them there are."""
    g_B, m_M = tl.program_id(0).to(tl.int64) * B + tl.arange(0, B), tl.arange(0, M)
    return g_B[:, None] * WEIGHTS + m_M[None, :], (g_B[:, None] < groups) & (m_M[None, :] < WEIGHTS)


@triton.jit
def _logit_places(groups, CANDIDATES: tl.constexpr, C: tl.constexpr, B: tl.constexpr):  # type: ignore[no-untyped-def]
    """Of logits, in 64 bits: [C, B], and which of them there are."""
    g_B, c_C = tl.program_id(0).to(tl.int64) * B + tl.arange(0, B), tl.arange(0, C)
    return (
        c_C[:, None].to(tl.int64) * groups + g_B[None, :],
        (c_C[:, None] < CANDIDATES) & (g_B[None, :] < groups),
    )


def _drawn(logits_CG: Tensor, masks_CM: Tensor, draw: Draw) -> tuple[Tensor | int | float, ...]:
    """What both kernels are told of a draw, in their order."""
    chunks = triton.cdiv(logits_CG.shape[1], soft_masks.CHUNK)
    keys_K2 = _keys(draw.key, chunks, logits_CG.device) if draw.key is not None else masks_CM
    return (
        logits_CG.contiguous(),
        masks_CM.contiguous().view(torch.uint8),
        keys_K2,
        logits_CG.shape[1],
        draw.scale,
        draw.temperature,
    )


@functools.lru_cache(maxsize=1024)
def _keys(key: int, chunks: int, device: torch.device) -> Tensor:
    """Noise factors of all chunks, int32 [K, 2]; the passes of one step share them."""
    return torch.tensor(
        [noise_factors(key_of(key, number)) for number in range(chunks)], dtype=torch.int32
    ).to(device)


def _rounded(masks_CM: Tensor) -> tuple[int, int]:
    """Candidates and weights of a group as powers of two."""
    return triton.next_power_of_2(masks_CM.shape[0]), triton.next_power_of_2(masks_CM.shape[1])
