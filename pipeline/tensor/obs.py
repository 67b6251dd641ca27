"""Optimal brain surgeon over the columns of a linear (SparseGPT, Frantar and Alistarh, arXiv 2301.00774).

Columns are decided from left to right; the error that zeroing a weight makes in the linear's output is
compensated by the weights to its right. Per column block: choose, then carry the errors over.

Shape legend: O out_features, I in_features, C columns of a column block.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.errors import NumericalError
from pipeline.spec.patterns import NM
from pipeline.tensor.masks import keep_of_groups

DAMPING_STEP, MAX_DAMPING = 10.0, 10.0
COLUMN_BLOCK_SIZE = 128  # of N:M, where it changes nothing but speed

Choose = Callable[[Tensor, int], Tensor]  # score [O, C] and its first column → keep, bool [O, C]


@dataclass(frozen=True)
class InverseFactor:
    """`upper_II`: upper Cholesky factor of the damped Hessian's inverse, float32. `damping`: what it took, a
    fraction of the mean diagonal. `dead_I`: features that no token lit."""

    upper_II: Tensor
    damping: float
    dead_I: Tensor


def inverse_factor(hessian_II: Tensor, *, damping: float) -> InverseFactor:
    """Factor the inverse; where that fails, damping is raised tenfold until it does not.

    Raises NumericalError for a Hessian that is not finite, or that no damping up to 10 makes definite.
    """
    diagonal_I = hessian_II.diagonal()
    if not torch.isfinite(diagonal_I).all():
        raise NumericalError(
            "the Hessian is not finite; the activations hold inf or NaN: check the checkpoint, or raise "
            "compute_dtype (float16 overflows above 65504)"
        )
    dead_I = diagonal_I == 0
    base_II = hessian_II.clone()
    base_II.diagonal().add_(dead_I.float())
    mean = float(base_II.diagonal().mean())
    used = damping
    while used <= max(damping, MAX_DAMPING):
        damped_II = base_II.clone()
        damped_II.diagonal().add_(used * mean)
        lower_II, failed = torch.linalg.cholesky_ex(damped_II)
        if not failed:
            upper_II, failed = torch.linalg.cholesky_ex(torch.cholesky_inverse(lower_II), upper=True)
            if not failed and torch.isfinite(upper_II).all():
                return InverseFactor(upper_II, used, dead_I)
        used *= DAMPING_STEP
    raise NumericalError(
        f"the Hessian of {len(dead_I)} features has no Cholesky factor with damping {damping} to "
        f"{used / DAMPING_STEP:g} ({int(dead_I.sum())} features are dead); use more calibration samples, or "
        f"a larger damping"
    )


def prune_by_obs(
    weight_OI: Tensor, factor: InverseFactor, choose: Choose, *, column_block_size: int
) -> tuple[Tensor, Tensor]:
    """keep, bool [O, I], and the kept weights' new values, float32 [O, I].

    `choose` sees the score w²/diag(U)² of a column block's weights, which carry the errors so far.
    """
    weight_OI = weight_OI.float().masked_fill(factor.dead_I, 0)
    keep_OI = torch.ones_like(weight_OI, dtype=torch.bool)
    columns = weight_OI.shape[1]
    for first in range(0, columns, column_block_size):
        last = min(first + column_block_size, columns)
        upper_CC = factor.upper_II[first:last, first:last]
        block_OC = weight_OI[:, first:last].clone()
        keep_OI[:, first:last] = choose(_score(block_OC, upper_CC), first)
        errors_OC = _compensate(block_OC, upper_CC, keep_OI[:, first:last])
        weight_OI[:, first:last] = block_OC
        weight_OI[:, last:] -= errors_OC @ factor.upper_II[first:last, last:]
    return keep_OI, weight_OI


def prune_groups_by_obs(weight_OI: Tensor, factor: InverseFactor, pattern: NM) -> tuple[Tensor, Tensor]:
    """prune_by_obs for N:M: each group is chosen when its first column comes, within larger column blocks."""
    weight_OI = weight_OI.float().masked_fill(factor.dead_I, 0)
    keep_OI = torch.ones_like(weight_OI, dtype=torch.bool)
    columns = weight_OI.shape[1]
    whole = max(pattern.group, COLUMN_BLOCK_SIZE // pattern.group * pattern.group)
    for first in range(0, columns, whole):
        last = min(first + whole, columns)
        errors = []
        for start in range(first, last, pattern.group):
            stop = start + pattern.group
            upper_CC = factor.upper_II[start:stop, start:stop]
            group_OC = weight_OI[:, start:stop].clone()
            keep_OC = keep_of_groups(_score(group_OC, upper_CC), keep=pattern.keep, group=pattern.group)
            keep_OI[:, start:stop] = keep_OC
            errors.append(_compensate(group_OC, upper_CC, keep_OC))
            weight_OI[:, start:stop] = group_OC
            weight_OI[:, stop:last] -= errors[-1] @ factor.upper_II[start:stop, stop:last]
        weight_OI[:, last:] -= torch.cat(errors, dim=1) @ factor.upper_II[first:last, last:]
    return keep_OI, weight_OI


def damping_note(factor: InverseFactor, damping: float) -> str | None:
    """What the report tells of a factor that took more damping than asked."""
    if factor.damping == damping:
        return None
    return f"the Hessian had no Cholesky factor: damping raised from {damping:g} to {factor.damping:g}"


def obs_score(weight_OI: Tensor, factor: InverseFactor) -> Tensor:
    """w²/diag(U)² of the weights as they are, float32 [O, I]."""
    return _score(weight_OI.float().masked_fill(factor.dead_I, 0), factor.upper_II)


def _score(weight_OC: Tensor, upper_CC: Tensor) -> Tensor:
    return weight_OC.square() / upper_CC.diagonal().square()


def _compensate(weight_OC: Tensor, upper_CC: Tensor, keep_OC: Tensor) -> Tensor:
    """Zero what is not kept, in place, column by column; errors per weight, [O, C]."""
    errors_OC = torch.zeros_like(weight_OC)
    for i in range(weight_OC.shape[1]):
        pruned_O = weight_OC[:, i].masked_fill(keep_OC[:, i], 0)
        errors_OC[:, i] = pruned_O / upper_CC[i, i]
        weight_OC[:, i] -= pruned_O
        weight_OC[:, i + 1 :] -= errors_OC[:, i : i + 1] * upper_CC[i, i + 1 :]
    return errors_OC
