"""Learnable N:M masks: each group of M consecutive inputs draws one of its candidate masks (MaskLLM, arXiv
2409.17481).

A candidate keeps N of the M weights; a group has one logit for each candidate. In training a mask is a
mixture,

    y = softmax((scale · logits + g) / temperature),  g Gumbel noise;  mask = Σ y · candidate

and at the end it is the candidate with the largest logit (the first of equal ones). Mixture, mask and masked
weight are computed for a chunk of groups at a time and recomputed in the backward pass, so that the logits
are the only memory of the candidates' size.

The noise of an element depends only on a key and its position (it is a hash, not a generator's state), so
that any worker, any device and the backward pass get the same noise.

Shape legend: O out_features, I in_features, M weights of a group, G groups of a matrix in row-major order, C
candidates, n groups of a chunk. Candidates are the first dimension of the logits.
"""

import importlib.util
import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from types import ModuleType
from typing import Self

import torch
from torch import Tensor

from pipeline.canonical import digest_of

CHUNK = 1 << 15  # groups at a time; fixed, because noise depends on the position within a chunk
INITIAL_STD = 0.01  # standard deviation of logits without a prior, and the unit of a prior's strength
_SIGN = 1 << 31


@dataclass(frozen=True)
class Draw:
    """The parameters of the masks drawn at one step. `key`: 64 bits that determine the noise; None means no
    noise.

    `numbers` holds the same as a float64 tensor on the CPU: scale, temperature and the key's halves, if any.
    Compiled graphs take it as an input, because new Python numbers would make them compile again.
    """

    scale: float
    temperature: float
    key: int | None
    numbers: Tensor = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.key is not None and self.key >> 64:
            raise ValueError(f"key={self.key} must be from 0 to 2^64 - 1")
        halves = () if self.key is None else divmod(self.key, 1 << 32)
        numbers = torch.tensor((self.scale, self.temperature, *halves), dtype=torch.float64, device="cpu")
        object.__setattr__(self, "numbers", numbers)

    @classmethod
    def of(cls, numbers: Tensor) -> Self:
        """Returns the draw with these numbers."""
        scale, temperature, *halves = numbers.tolist()
        return cls(scale, temperature, int(halves[0]) << 32 | int(halves[1]) if halves else None)


def candidates(keep: int, group: int) -> Tensor:
    """Returns all masks that keep `keep` of `group` weights, bool [C, M], in lexicographic order of the kept
    places."""
    kept = list(itertools.combinations(range(group), keep))
    masks_CM = torch.zeros(len(kept), group, dtype=torch.bool)
    masks_CM.scatter_(1, torch.tensor(kept), value=True)
    return masks_CM


def random_logits(groups: int, masks_CM: Tensor, *, seed: int) -> Tensor:
    """Returns logits without a prior: N(0, 0.01²), float32 [C, G]; equal seeds give equal logits."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(len(masks_CM), groups, generator=generator) * INITIAL_STD


def prior_logits(keep_OI: Tensor, masks_CM: Tensor, *, strength: float) -> Tensor:
    """Returns logits, float32 [C, G], that grow by 0.01 · `strength` with each weight that both a candidate
    and `keep_OI` keep, and average 0: the largest belongs to the prior's own mask. Unlike the paper's they
    have no random part, which would make the first masks differ from the prior.

    `keep_OI`: bool, N kept of every M.
    """
    keep_MG = keep_OI.reshape(-1, masks_CM.shape[1]).t().float()
    agreeing_CG = masks_CM.to(keep_MG.device).float() @ keep_MG
    return (agreeing_CG - agreeing_CG.mean(dim=0)) * (INITIAL_STD * strength)


def chosen(logits_CG: Tensor, masks_CM: Tensor, shape: tuple[int, int]) -> Tensor:
    """Returns keep, bool [O, I]: the candidate with the largest logit."""
    return masks_CM.to(logits_CG.device)[chosen_codes(logits_CG).long()].reshape(shape)


def chosen_codes(logits_CG: Tensor) -> Tensor:
    """Returns the index of the candidate with the largest logit, uint8 [G]; the first of equal ones."""
    best_G, code_G = logits_CG[0].clone(), torch.zeros_like(logits_CG[0], dtype=torch.uint8)
    for number, logits_G in enumerate(logits_CG[1:], start=1):
        larger_G = logits_G > best_G
        best_G = torch.where(larger_G, logits_G, best_G)
        code_G.masked_fill_(larger_G, number)
    return code_G


def probabilities(logits_CG: Tensor, draw: Draw) -> Iterator[tuple[slice, Tensor]]:
    """Yields the mixtures, a chunk of groups at a time: the slice of groups, and y [C, n]."""
    for number, start in enumerate(range(0, logits_CG.shape[1], CHUNK)):
        part_Cn = logits_CG[:, start : start + CHUNK].float() * draw.scale
        if draw.key is not None:
            part_Cn += gumbel(part_Cn, key_of(draw.key, number))
        yield slice(start, start + CHUNK), torch.softmax(part_Cn.div_(draw.temperature), dim=0)


@dataclass(frozen=True)
class Likelihood:
    """The certainty of a matrix's masks: means over its `groups`. `entropy` in nats; `certainty`: the largest
    probability."""

    entropy: float
    certainty: float
    groups: int


def likelihood(logits_CG: Tensor, scale: float) -> Likelihood:
    """Evaluates softmax(scale · logits), the distribution of the mask that is largest in a draw
    (Gumbel-max)."""
    sums_2 = torch.zeros(2, dtype=torch.float64, device=logits_CG.device)  # of entropies and certainties
    for _, p_Cn in probabilities(logits_CG, Draw(scale, 1.0, None)):
        sums_2[0] -= torch.special.xlogy(p_Cn, p_Cn).sum(dtype=torch.float64)
        sums_2[1] += p_Cn.amax(dim=0).sum(dtype=torch.float64)
    entropy, certainty = sums_2.tolist()
    groups = logits_CG.shape[1]
    return Likelihood(entropy / groups, certainty / groups, groups)


def masked_weight(
    weight_OI: Tensor, logits_CG: Tensor, masks_CM: Tensor, draw: Draw
) -> tuple[Tensor, Tensor]:
    """Returns the weight under a drawn mask, [O, I] in the weight's type, and the sum of its squares, float32
    []. Gradients flow to the logits only; the result is the same when no gradients are requested."""
    expected = (len(masks_CM), weight_OI.numel() // masks_CM.shape[1])
    if tuple(logits_CG.shape) != expected:
        raise ValueError(
            f"logits of a weight {tuple(weight_OI.shape)} are {expected}, not {tuple(logits_CG.shape)}"
        )
    return _masked_weight(weight_OI, logits_CG, masks_CM, draw.numbers)


@torch.library.custom_op("secateur::masked_weight", mutates_args=())
def _masked_weight(
    weight_OI: Tensor, logits_CG: Tensor, masks_CM: Tensor, numbers: Tensor
) -> tuple[Tensor, Tensor]:
    draw = Draw.of(numbers)
    if (kernels := _kernels_for(weight_OI, masks_CM)) is not None:
        return kernels.masked_weight(weight_OI, logits_CG, masks_CM, draw)
    masked_OI = torch.empty_like(weight_OI, memory_format=torch.contiguous_format)
    masked_GM, weight_GM = _by_group(masked_OI, masks_CM), _by_group(weight_OI, masks_CM)
    masks_MC = masks_CM.t().float()
    squares = torch.zeros((), device=weight_OI.device)
    for where, y_Cn in probabilities(logits_CG, draw):
        torch.mul(weight_GM[where], (masks_MC @ y_Cn).t(), out=masked_GM[where])
        squares += masked_GM[where].float().square().sum()
    return masked_OI, squares


@torch.library.custom_op("secateur::masked_weight_backward", mutates_args=())
def _masked_weight_backward(
    gradient_OI: Tensor,
    gradient_squares: Tensor,
    weight_OI: Tensor,
    logits_CG: Tensor,
    masks_CM: Tensor,
    numbers: Tensor,
) -> Tensor:
    draw = Draw.of(numbers)
    if (kernels := _kernels_for(weight_OI, masks_CM)) is not None:
        return kernels.logits_gradient(gradient_OI, gradient_squares, weight_OI, logits_CG, masks_CM, draw)
    result_CG = torch.empty_like(logits_CG)
    gradient_GM, weight_GM = _by_group(gradient_OI.contiguous(), masks_CM), _by_group(weight_OI, masks_CM)
    to_MC, slope = masks_CM.t().float(), draw.scale / draw.temperature
    for where, y_Cn in probabilities(logits_CG, draw):
        own_Mn = weight_GM[where].t().float()
        toward_Mn = gradient_GM[where].t().float() + 2 * gradient_squares * own_Mn * (to_MC @ y_Cn)
        toward_Cn = to_MC.t() @ (toward_Mn * own_Mn)
        toward_Cn -= (toward_Cn * y_Cn).sum(dim=0)
        result_CG[:, where] = toward_Cn.mul_(y_Cn).mul_(slope)
    return result_CG


@_masked_weight.register_fake
def _(weight_OI, logits_CG, masks_CM, numbers):  # type: ignore[no-untyped-def]
    masked_OI = torch.empty_like(weight_OI, memory_format=torch.contiguous_format)
    return masked_OI, weight_OI.new_empty((), dtype=torch.float32)


@_masked_weight_backward.register_fake
def _(gradient_OI, gradient_squares, weight_OI, logits_CG, masks_CM, numbers):  # type: ignore[no-untyped-def]
    return torch.empty_like(logits_CG)


def _keep_for_backward(ctx, inputs, output):  # type: ignore[no-untyped-def]
    weight_OI, logits_CG, masks_CM, ctx.numbers = inputs
    ctx.save_for_backward(weight_OI, logits_CG, masks_CM)


def _backward(ctx, gradient_OI, gradient_squares):  # type: ignore[no-untyped-def]
    saved = ctx.saved_tensors
    return None, _masked_weight_backward(gradient_OI, gradient_squares, *saved, ctx.numbers), None, None


_masked_weight.register_autograd(_backward, setup_context=_keep_for_backward)


def _kernels_for(weight_OI: Tensor, masks_CM: Tensor) -> ModuleType | None:
    """Returns the Triton kernels if they exist and support this weight and pattern."""
    if not weight_OI.is_cuda or importlib.util.find_spec("triton") is None:
        return None
    from pipeline.tensor import soft_masks_triton

    return soft_masks_triton if soft_masks_triton.takes(weight_OI, masks_CM) else None


def key_of(*parts: int | str) -> int:
    """Returns a key of 64 bits that depends on these parts."""
    return int(digest_of(list(parts))[:16], 16)


def gumbel(like_Cn: Tensor, key: int) -> Tensor:
    """Returns standard Gumbel noise, float32 [C, n], for a key."""
    return gumbel_of(noise_bits(like_Cn, key))


def noise_bits(like_Cn: Tensor, key: int) -> Tensor:
    """Returns random int32 [C, n] for a key. Two rounds of multiply and shift mix position and key
    (constants: C. Wellons' lowbias32)."""
    count, groups = like_Cn.shape
    place_C1 = torch.arange(count, dtype=torch.int32, device=like_Cn.device)[:, None] * CHUNK
    x_Cn = place_C1 + torch.arange(groups, dtype=torch.int32, device=like_Cn.device)
    multiplier, addend = noise_factors(key)
    x_Cn.mul_(multiplier).add_(addend)
    x_Cn ^= x_Cn.bitwise_right_shift(16).bitwise_and_(0xFFFF)
    x_Cn *= 0x7FEB352D
    x_Cn ^= x_Cn.bitwise_right_shift(15).bitwise_and_(0x1FFFF)
    x_Cn *= _signed(0x846CA68B)
    x_Cn ^= x_Cn.bitwise_right_shift(16).bitwise_and_(0xFFFF)
    return x_Cn


def noise_factors(key: int) -> tuple[int, int]:
    """Returns the two int32 that `noise_bits` multiplies positions by and adds."""
    return _signed(key >> 32 | 1), _signed(key)


def gumbel_of(bits: Tensor) -> Tensor:
    """Turns random int32 into Gumbel numbers, float32. 23 bits of each become a number strictly between 0 and
    1: with one bit more, float32 would round the largest to 1, and its noise to infinity."""
    uniform = bits.bitwise_right_shift(9).bitwise_and_(0x7FFFFF).float().add_(0.5).mul_(2.0**-23)
    return uniform.log_().neg_().log_().neg_()


def _by_group(matrix_OI: Tensor, masks_CM: Tensor) -> Tensor:
    return matrix_OI.reshape(-1, masks_CM.shape[1])


def _signed(number: int) -> int:
    """Returns the lowest 32 bits as an int32."""
    return (number + _SIGN) % (1 << 32) - _SIGN
