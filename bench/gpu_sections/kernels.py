"""MaskLLM's Triton kernels: against the plain implementation, on more than 2^31 elements, and their rate.

Shape legend: O out_features, I in_features, C candidates, G groups, M weights of a group.
"""

import torch
from torch import Tensor

from gpu_sections.setting import Setting
from pipeline.tensor import soft_masks
from pipeline.tensor.soft_masks import Draw, candidates

DRAW = Draw(scale=100.0, temperature=2.0, key=1234567890123456789)
CLOSE = 2e-2  # of bfloat16 numbers around 1


def kernels(setting: Setting) -> dict[str, object]:
    """GB/s of both passes, counting each tensor once, and the largest difference to the plain implementation.
    Raises AssertionError where they differ."""
    setting.needs_gpu("a Triton kernel")
    from pipeline.tensor import soft_masks_triton

    masks_CM = candidates(2, 4).to(setting.device)
    small = compared(64 if setting.quick else 4096, 11008, masks_CM, setting)
    rows = 512 if setting.quick else (1 << 31) // (len(masks_CM) * 11008 // 4) + 64
    large = compared(rows, 11008, masks_CM, setting)
    weight_OI, logits_CG = made(rows, 11008, masks_CM, setting)
    size = weight_OI.nbytes * 2 + logits_CG.nbytes
    forward = setting.seconds(
        lambda: soft_masks_triton.masked_weight(weight_OI, logits_CG, masks_CM, DRAW), times=3
    )
    gradient_squares = torch.zeros((), device=setting.device)
    backward = setting.seconds(
        lambda: soft_masks_triton.logits_gradient(
            weight_OI, gradient_squares, weight_OI, logits_CG, masks_CM, DRAW
        ),
        times=3,
    )
    return {
        "elements": logits_CG.numel(),
        "difference": small,
        "difference_beyond_2^31": large,
        "forward_gb_s": size / forward / 1e9,
        "backward_gb_s": (size + logits_CG.nbytes) / backward / 1e9,
    }


def made(rows: int, inner: int, masks_CM: Tensor, setting: Setting) -> tuple[Tensor, Tensor]:
    """A random weight and its logits, bfloat16."""
    generator = torch.Generator(setting.device).manual_seed(0)
    weight_OI = torch.randn(rows, inner, device=setting.device, generator=generator, dtype=torch.bfloat16)
    groups = weight_OI.numel() // masks_CM.shape[1]
    logits_CG = torch.randn(
        len(masks_CM), groups, device=setting.device, generator=generator, dtype=torch.bfloat16
    )
    return weight_OI, logits_CG.mul_(0.01)


def compared(rows: int, inner: int, masks_CM: Tensor, setting: Setting) -> float:
    """The largest difference between the kernel's masked weights and the plain ones."""
    from pipeline.tensor import soft_masks_triton

    weight_OI, logits_CG = made(rows, inner, masks_CM, setting)
    kernel_OI, _ = soft_masks_triton.masked_weight(weight_OI, logits_CG, masks_CM, DRAW)
    kept, soft_masks._kernels_for = soft_masks._kernels_for, lambda weight_OI, masks_CM: None
    try:
        plain_OI, _ = soft_masks.masked_weight(weight_OI, logits_CG, masks_CM, DRAW)
    finally:
        soft_masks._kernels_for = kept
    difference = max(
        float((a - b).abs().max()) for a, b in zip(kernel_OI.split(1024), plain_OI.split(1024), strict=True)
    )
    assert difference <= CLOSE * float(weight_OI.abs().max()), (
        f"the kernel is {difference:g} off the plain one"
    )
    return difference
