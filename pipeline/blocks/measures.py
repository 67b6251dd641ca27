"""The measures of a block's linears that allocations use.

Shape legend: O out_features, I in_features, N eigenvalues.
"""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from pipeline.allocations.measures import HillAlpha, Measure, OutlierRatio
from pipeline.errors import NumericalError
from pipeline.tensor.masks import all_finite
from pipeline.tensor.outliers import outlier_ratio

INFINITE = 0x7F800000  # the bits of infinity in float32

Part = Callable[[], Tensor]  # computes a linear's part at every call, so that memory holds only one


def measure_linears(measure: Measure, weights: Sequence[Part], saliencies: Sequence[Part]) -> list[float]:
    """Returns one number for all linears together, or one for each if the measure's scope is the linear.

    `weights` [O, I] of each linear; `saliencies`: |W|·norm of each, float32 [O, I], empty for measures that
    need no samples. Raises NumericalError for values that are not finite.
    """
    if isinstance(measure, HillAlpha):
        alphas = [hill_alpha(weight()) for weight in weights]
        return [sum(alphas) / len(alphas)]
    if isinstance(measure, OutlierRatio):
        if measure.scope == "linear":
            return [outlier_ratio([saliency()], measure.multiplier) for saliency in saliencies]
        return [outlier_ratio([saliency() for saliency in saliencies], measure.multiplier)]
    return [median(saliencies)]


def hill_alpha(weight_OI: Tensor) -> float:
    """Returns 1 + k / Σ ln(λ_i/λ_(n-k)) over the upper half of the n eigenvalues of WᵀW (or of WWᵀ where that
    is smaller), k = n // 2 (AlphaPruning, arXiv 2410.10912)."""
    weight_OI = weight_OI.float()
    if not all_finite(weight_OI):
        raise NumericalError("the weights hold inf or NaN; check the checkpoint")
    rows, columns = weight_OI.shape
    gram = weight_OI @ weight_OI.t() if rows < columns else weight_OI.t() @ weight_OI
    eigenvalues_N = torch.linalg.eigvalsh(gram.double()).clamp(min=torch.finfo(torch.float32).tiny)
    half = len(eigenvalues_N) // 2
    if half == 0:
        raise NumericalError(f"a linear of {rows} x {columns} weights has no spectrum")
    logs = (eigenvalues_N[-half:] / eigenvalues_N[-half - 1]).log().sum()
    if logs <= 0:
        raise NumericalError("the upper half of a linear's spectrum is flat: its tail has no exponent")
    return 1 + half / float(logs)


def median(saliencies: Sequence[Part]) -> float:
    """Returns the lower median of all saliencies together, found by bisecting the range of float32 bit
    patterns, so that nothing of the block's size is allocated. Saliencies are not negative, so their bits
    sort like their values."""
    if not saliencies:
        return 0.0
    wanted = (sum(saliency().numel() for saliency in saliencies) + 1) // 2
    low = torch.zeros((), dtype=torch.int64, device=saliencies[0]().device)
    high = torch.full_like(low, INFINITE)
    for _ in range(INFINITE.bit_length()):  # each halves the range, without waiting for the device
        middle = (low + high) // 2
        counts = [(saliency().view(torch.int32) <= middle).sum() for saliency in saliencies]
        enough = torch.stack(counts).sum() >= wanted
        low, high = torch.where(enough, low, middle + 1), torch.where(enough, middle, high)
    found = float(low.int().view(torch.float32))
    if not math.isfinite(found):
        raise NumericalError("the median saliency is not finite: check weights and calibration texts")
    return found
