"""The outlier ratio of a block (OWL, arXiv 2310.05175).

Shape legend: O out_features, I in_features.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from pipeline.errors import NumericalError
from pipeline.tensor.devices import read_together

MAX_FLOAT32 = torch.finfo(torch.float32).max


def outlier_ratio(saliencies: Sequence[Tensor], multiplier: float) -> float:
    """The percentage of a block's saliencies above `multiplier` times their mean, in [0, 100].

    `saliencies`: float32 [O, I] of each linear of the block; mean and count cover all of them together, in
    two passes, so that nothing of the block's size is allocated. The mean is taken in float64, the comparison
    in float32 as in the published code.

    Raises NumericalError when there is no weight, or a saliency is not finite.
    """
    weights = sum(saliency_OI.numel() for saliency_OI in saliencies)
    if weights == 0:
        raise NumericalError("outlier ratio of a block without weights")
    total = sum(read_together([saliency_OI.sum(dtype=torch.float64) for saliency_OI in saliencies]))
    if not math.isfinite(total):
        raise NumericalError(
            f"the saliencies of a block sum to {total}; the weights or the activations hold inf or NaN: "
            f"check the checkpoint, or raise compute_dtype (float16 overflows above 65504)"
        )
    threshold = min(multiplier * total / weights, MAX_FLOAT32)
    outliers = sum(read_together([(saliency_OI > threshold).sum() for saliency_OI in saliencies]))
    return outliers / weights * 100
