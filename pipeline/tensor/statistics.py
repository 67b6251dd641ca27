"""Statistics of a linear's input over calibration tokens.

Shape legend: I in_features, T tokens.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class LinearStatistics:
    """`input_norm_I`: sqrt of the mean over calibration samples of the squared L2 norm of each input feature
    over the sample's tokens, float32 [I] (Wanda, arXiv 2306.11695)."""

    input_norm_I: Tensor


def squared_norm(x_TI: Tensor) -> Tensor:
    """Squared L2 norm of each feature over the tokens of one micro-batch, float32 [I]."""
    return x_TI.float().square().sum(dim=0)


def merge(squared_norms: Iterable[Tensor], *, samples: int) -> LinearStatistics:
    """Combine micro-batches, in sample order, into the statistics of `samples` samples.

    Summed in float64 in the given order, so that any spread of the samples over workers gives the same bits.
    """
    total_I = torch.stack(tuple(squared_norms)).double().sum(dim=0)
    return LinearStatistics(input_norm_I=(total_I / samples).sqrt().float())
