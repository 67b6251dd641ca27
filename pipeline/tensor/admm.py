"""ADMM (Boža, arXiv 2401.02938): chooses supports and refits the kept weights to the outputs of a linear.

All computations use features scaled to norm 1: V = (W·norm)ᵀ, G = XᵀX / (norm normᵀ).

Shape legend: O out_features, I in_features.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.errors import NumericalError

NORM_FLOOR = 1e-8
RHO = 1.0  # the penalty, in units of a feature's squared norm

Support = Callable[[Tensor, int], Tensor]  # scaled weights [O, I] and the iteration → keep, bool [O, I]


@dataclass(frozen=True)
class LeastSquares:
    """The part of the problem that all linears with the same input share. `norm_I`: L2 norms of the features;
    `gram_II`: the scaled and damped gram; `inverse_II`: the inverse of the gram with the penalty added to its
    diagonal."""

    norm_I: Tensor
    gram_II: Tensor
    inverse_II: Tensor


def least_squares(hessian_II: Tensor, *, samples: int, damping: float) -> LeastSquares:
    """Scales, damps (`damping`: a fraction of the mean diagonal) and inverts the Hessian, in float32.

    Raises NumericalError for a Hessian that is not finite.
    """
    gram_II = hessian_II * (samples / 2)
    if not torch.isfinite(gram_II.diagonal()).all():
        raise NumericalError(
            "the Hessian is not finite; the activations hold inf or NaN: check the checkpoint, or raise "
            "compute_dtype (float16 overflows above 65504)"
        )
    norm_I = gram_II.diagonal().sqrt() + NORM_FLOOR
    gram_II /= norm_I[:, None] * norm_I
    gram_II.diagonal().add_(damping * gram_II.diagonal().mean())
    penalised_II = gram_II.clone()
    penalised_II.diagonal().add_(RHO)
    inverse_II = torch.cholesky_inverse(torch.linalg.cholesky(penalised_II))
    return LeastSquares(norm_I, gram_II, inverse_II)


def refit(
    weight_OI: Tensor, squares: LeastSquares, support: Support, *, iterations: int
) -> tuple[Tensor, Tensor]:
    """Returns keep, bool [O, I], of the last iteration, and the kept weights' new values, float32 [O, I].

    `support` gets |V + U|, the scaled weights plus the accumulated dual variable; it may return the same keep
    every time.
    """
    scaled_OI = weight_OI.float() * squares.norm_I
    target_OI = scaled_OI @ squares.gram_II  # the gram is symmetric, so all matrices stay transposed
    dual_OI = torch.zeros_like(scaled_OI)
    keep_OI = torch.ones_like(scaled_OI, dtype=torch.bool)
    for iteration in range(iterations):
        moved_OI = scaled_OI + dual_OI
        keep_OI = support(moved_OI.abs(), iteration)
        kept_OI = moved_OI.masked_fill(~keep_OI, 0)
        dual_OI = moved_OI - kept_OI
        scaled_OI = (target_OI + RHO * (kept_OI - dual_OI)) @ squares.inverse_II
    return keep_OI, (scaled_OI + dual_OI).masked_fill(~keep_OI, 0) / squares.norm_I
