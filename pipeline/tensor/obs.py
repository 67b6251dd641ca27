"""Optimal brain surgeon over the columns of a linear (SparseGPT, Frantar and Alistarh, arXiv 2301.00774).

Columns are decided from left to right; the error that zeroing a weight makes in the linear's output is
compensated by the weights to its right. Each column block is decided first, and its errors are then applied
to the columns after it. Rounding (rounding.py) settles columns in the same way.

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
COLUMN_BLOCK_SIZE = 128  # used for N:M, where it affects nothing but speed

Choose = Callable[[Tensor, int], Tensor]  # score [O, C] and its first column → keep, bool [O, C]
Settle = Callable[[Tensor, int], Tensor]  # a column [O] and its place in its column block → its final values
Begin = Callable[[Tensor, int], Settle]  # a column block [O, C] and its first column → how its columns end


@dataclass(frozen=True)
class InverseFactor:
    """`upper_II`: the upper Cholesky factor of the damped Hessian's inverse, float32. `damping`: the damping
    that was needed, as a fraction of the mean diagonal. `dead_I`: features that are zero for every token."""

    upper_II: Tensor
    damping: float
    dead_I: Tensor


def inverse_factor(hessian_II: Tensor, *, damping: float) -> InverseFactor:
    """Factors the inverse; where that fails, damping is raised tenfold until it succeeds.

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
    """Returns keep, bool [O, I], and the kept weights' new values, float32 [O, I].

    `choose` gets the score w²/diag(U)² of a column block's weights, which include the errors compensated so
    far.
    """
    weight_OI = weight_OI.float().masked_fill(factor.dead_I, 0)
    keep_OI = torch.ones_like(weight_OI, dtype=torch.bool)

    def begin(block_OC: Tensor, first: int) -> Settle:
        last = first + block_OC.shape[1]
        keep_OC = choose(_score(block_OC, factor.upper_II[first:last, first:last]), first)
        keep_OI[:, first:last] = keep_OC
        return _zeroing(keep_OC)

    settle_columns(weight_OI, factor, begin, column_block_size=column_block_size)
    return keep_OI, weight_OI


def settle_columns(weight_OI: Tensor, factor: InverseFactor, begin: Begin, *, column_block_size: int) -> None:
    """Gives every column of a float32 weight its final values, in place, from left to right. The columns
    after a column compensate the error that this makes in the linear's output."""
    columns = weight_OI.shape[1]
    for first in range(0, columns, column_block_size):
        last = min(first + column_block_size, columns)
        block_OC = weight_OI[:, first:last].clone()
        errors_OC = _compensate(block_OC, factor.upper_II[first:last, first:last], begin(block_OC, first))
        weight_OI[:, first:last] = block_OC
        weight_OI[:, last:] -= errors_OC @ factor.upper_II[first:last, last:]


def prune_groups_by_obs(weight_OI: Tensor, factor: InverseFactor, pattern: NM) -> tuple[Tensor, Tensor]:
    """Applies prune_by_obs to N:M: each group is chosen when its first column is due, within larger column
    blocks."""
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
            errors.append(_compensate(group_OC, upper_CC, _zeroing(keep_OC)))
            weight_OI[:, start:stop] = group_OC
            weight_OI[:, stop:last] -= errors[-1] @ factor.upper_II[start:stop, stop:last]
        weight_OI[:, last:] -= torch.cat(errors, dim=1) @ factor.upper_II[first:last, last:]
    return keep_OI, weight_OI


def damping_note(factor: InverseFactor, damping: float) -> str | None:
    """The report's note on a factor that needed more damping than the spec set, or None."""
    if factor.damping == damping:
        return None
    return f"the Hessian had no Cholesky factor: damping raised from {damping:g} to {factor.damping:g}"


def obs_score(weight_OI: Tensor, factor: InverseFactor) -> Tensor:
    """The score w²/diag(U)² of the weights as they are, float32 [O, I]."""
    return _score(weight_OI.float().masked_fill(factor.dead_I, 0), factor.upper_II)


def _score(weight_OC: Tensor, upper_CC: Tensor) -> Tensor:
    return weight_OC.square() / upper_CC.diagonal().square()


def _zeroing(keep_OC: Tensor) -> Settle:
    """Weights that are not kept end as zeros."""
    pruned_OC = ~keep_OC
    return lambda column_O, i: column_O.masked_fill(pruned_OC[:, i], 0)


def _compensate(weight_OC: Tensor, upper_CC: Tensor, settle: Settle) -> Tensor:
    """Settles the columns of a column block, in place, and returns the errors per weight, [O, C]."""
    errors_OC = torch.zeros_like(weight_OC)
    for i in range(weight_OC.shape[1]):
        final_O = settle(weight_OC[:, i], i)
        errors_OC[:, i] = (weight_OC[:, i] - final_O) / upper_CC[i, i]
        weight_OC[:, i] = final_O
        weight_OC[:, i + 1 :] -= errors_OC[:, i : i + 1] * upper_CC[i, i + 1 :]
    return errors_OC
