"""Grow and swap: changes the support at the same number of weights, and leaves values untouched (DSnoT, arXiv
2310.08915).

The expected change that pruning makes to an output is Σ W_j·E[x_j] over its row's pruned weights. Each cycle
regrows the weight that lowers this error most relative to its input's variance, and prunes the least salient
kept weight whose contribution has the opposite sign.

Shape legend: O out_features, I in_features, R rows that still change, B those of them that a swap improves.
"""

import torch
from torch import Tensor

from pipeline.tensor.statistics import LinearStatistics


def swap(
    weight_OI: Tensor,
    keep_OI: Tensor,
    statistics: LinearStatistics,
    *,
    cycles: int,
    threshold: float,
    group: int | None,
) -> Tensor:
    """Returns keep, bool [O, I], with the same count in every row, and with `group` in every group of inputs
    too.

    A row stops when its expected error is at most `threshold`, or when a swap would not lower it.
    """
    assert statistics.input_mean_I is not None
    assert statistics.input_variance_I is not None
    weight_OI = weight_OI.float()
    shift_OI = weight_OI * statistics.input_mean_I  # each weight's contribution to the expected output
    saliency_OI = weight_OI.abs() * statistics.input_norm_I
    gain_OI = shift_OI / statistics.input_variance_I.clamp(min=torch.finfo(torch.float32).tiny)
    keep_OI = keep_OI.clone()
    error_O = shift_OI.masked_fill(keep_OI, 0).double().sum(dim=1)
    rows_R = torch.arange(len(weight_OI), device=weight_OI.device)
    for _ in range(cycles):
        rows_R = rows_R[error_O[rows_R].abs() > threshold]
        if len(rows_R) == 0:
            break
        sign_R1 = error_O[rows_R].sign().float()[:, None]
        kept_RI = keep_OI[rows_R]
        grown_R1 = (gain_OI[rows_R] * sign_R1).masked_fill(kept_RI, -torch.inf).argmax(dim=1, keepdim=True)
        # Pruning a kept weight of the other sign reduces the error.
        lowers_RI = kept_RI & (shift_OI[rows_R] * sign_R1 < 0)
        if group is not None:
            groups_I = torch.arange(weight_OI.shape[1], device=weight_OI.device) // group
            lowers_RI &= groups_I == grown_R1 // group
        pruned_R1 = saliency_OI[rows_R].masked_fill(~lowers_RI, torch.inf).argmin(dim=1, keepdim=True)
        change_R = (shift_OI[rows_R].gather(1, pruned_R1) - shift_OI[rows_R].gather(1, grown_R1))[
            :, 0
        ].double()
        before_R = error_O[rows_R]
        possible_R = (~kept_RI).any(dim=1) & lowers_RI.any(dim=1)
        better_R = possible_R & ((before_R + change_R).abs() < before_R.abs())
        better_B = better_R.nonzero()[:, 0]  # the only place in a cycle, beside its first line, that waits
        rows_R = rows_R[better_B]
        keep_OI[rows_R, grown_R1[better_B, 0]] = True
        keep_OI[rows_R, pruned_R1[better_B, 0]] = False
        error_O[rows_R] += change_R[better_B]
    return keep_OI
