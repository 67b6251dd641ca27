"""Turns saliencies into keep tensors.

Shape legend: O out_features, I in_features, R sets whose members compete only with each other (rows, or one
matrix), C competitors in each (or columns of a column block), M position within a group of N:M, G groups.

Among equal saliencies the lowest index (row-major) is pruned first, on every device.
"""

import itertools

import numpy as np
import torch
from torch import Tensor

from pipeline.errors import NumericalError
from pipeline.spec.patterns import NM, ComparisonGroup, Pattern, Unstructured

PARTITIONED = 1 << 18  # entries at a time, so that a copy of them fits the cache
_INTEGERS = {2: torch.int16, 4: torch.int32, 8: torch.int64}  # by their size in bytes

ALPHA_START, ALPHA_LIMIT, ALPHA_TOLERANCE = 0.4, 0.8, 0.001


def keep_by_saliency(saliency_OI: Tensor, pattern: Pattern, *, default_group: ComparisonGroup) -> Tensor:
    """Returns keep, bool [O, I]: True at the most salient weights.

    `saliency_OI`: importance per weight, floating point [O, I], any unit. `default_group`: used where the
    pattern does not set a comparison group.

    The number of zeros at an unstructured sparsity s depends on the rounding. With `rounding: exact` the
    matrix gets round(O·I·s); comparing rows, each row gets the same count and the remainder goes to the rows
    whose next smallest saliency is smallest; comparing column blocks, the blocks up to column i together get
    round(O·i·s). With `rounding: floor` the counts are those of the published code: int(I·s) per row, or
    everything up to and including the saliency at position int(O·I·s) of the sorted matrix. s = 0 prunes
    nothing in either mode (the published code would prune one weight per matrix). N:M prunes the group - keep
    smallest of each group of consecutive inputs.

    Raises NumericalError for saliencies that are not finite, and InvalidSpec when the group of N:M does not
    divide I.
    """
    check_finite(saliency_OI)
    if isinstance(pattern, NM):
        pattern.check_in_features(saliency_OI.shape[1])
        return keep_of_groups(saliency_OI, keep=pattern.keep, group=pattern.group)
    if pattern.sparsity == 0 or saliency_OI.numel() == 0:
        return torch.ones_like(saliency_OI, dtype=torch.bool)
    group = pattern.comparison_group or default_group
    columns = saliency_OI.shape[1]
    width = pattern.column_block_size if group == "column_block" else columns
    keeps = [
        keep_of_column_block(saliency_OC, pattern, first=i * width, columns=columns, by_row=group == "row")
        for i, saliency_OC in enumerate(saliency_OI.split(width, dim=1))
    ]
    return torch.cat(keeps, dim=1)


def keep_of_column_block(
    saliency_OC: Tensor, pattern: Unstructured, *, first: int, columns: int, by_row: bool
) -> Tensor:
    """Returns keep, bool [O, C], for the columns from `first` on, of a matrix with `columns` columns in all.

    The weights of the block compete with each other, or within their row (`by_row`). See keep_by_saliency for
    the counts; those of a matrix's column blocks add up to the matrix's count.
    """
    rows, width = saliency_OC.shape
    competitors_RC = saliency_OC if by_row else saliency_OC.reshape(1, -1)
    if pattern.rounding == "exact":
        upto, before = rows * (first + width) * pattern.sparsity, rows * first * pattern.sparsity
        each, extra = divmod(round(upto) - round(before), len(competitors_RC))
        prune_RC = smallest(competitors_RC, each=each, extra=extra)
    elif by_row:
        prune_RC = smallest(competitors_RC, each=int(width * pattern.sparsity), extra=0)
    else:
        position = int(saliency_OC.numel() * pattern.sparsity)
        prune_RC = competitors_RC <= _kth_smallest(competitors_RC, position + 1)
    return ~prune_RC.reshape(saliency_OC.shape)


def keep_by_row_share(saliency_OI: Tensor, pattern: Unstructured) -> Tensor:
    """Returns keep, bool [O, I], of Wanda's variant (arXiv 2306.11695): every row loses the same share of its
    saliency.

    Within a row the smallest saliencies are pruned as long as their sum is at most α times the sum of the
    row. One α applies to the whole matrix, so that rows get unequal counts. `rounding: exact` sets α so that
    round(O·I·s) weights are pruned (equal shares: lowest index first). `rounding: floor` is the published
    search: α starts at 0.4 and is bisected within [0, 0.8] until the matrix is within 0.001 of s or the
    interval is shorter than 0.001. s = 0 prunes nothing in either mode.

    Raises NumericalError for saliencies that are not finite.
    """
    check_finite(saliency_OI)
    if pattern.sparsity == 0 or saliency_OI.numel() == 0:
        return torch.ones_like(saliency_OI, dtype=torch.bool)
    ascending = saliency_OI.sort(dim=1, stable=True)
    summed_OI = _running_sums(ascending.values)
    if pattern.rounding == "floor":
        counts_O = _count_by_alpha_search(ascending.values, summed_OI, pattern.sparsity)
        places_I = torch.arange(summed_OI.shape[1], device=summed_OI.device)
        prune_sorted_OI = places_I < counts_O[:, None]
        prune_OI = torch.empty_like(prune_sorted_OI).scatter_(1, ascending.indices, prune_sorted_OI)
    else:
        # A row of zeros has no shares; with 0 its weights are pruned first, which costs nothing.
        share_sorted_OI = torch.nan_to_num(summed_OI / summed_OI[:, -1:], nan=0.0)
        share_OI = torch.empty_like(share_sorted_OI).scatter_(1, ascending.indices, share_sorted_OI)
        prune_OI = _exact_share(share_OI.reshape(1, -1), pattern.sparsity).reshape(share_OI.shape)
    return ~prune_OI


def all_kept(weight_OI: Tensor) -> Tensor:
    """Returns a keep, bool [O, I], that prunes nothing."""
    return torch.ones_like(weight_OI, dtype=torch.bool)


def check_finite(values_OI: Tensor, *, what: str = "saliencies") -> None:
    """Raises NumericalError when a value is inf or NaN."""
    if all_finite(values_OI):
        return
    bad = values_OI.numel() - int(torch.isfinite(values_OI).sum())
    raise NumericalError(
        f"{bad} of {values_OI.numel()} {what} are not finite; the weights or the activations hold inf "
        f"or NaN: check the checkpoint, or raise compute_dtype (float16 overflows above 65504)"
    )


def all_finite(values: Tensor) -> bool:
    """Tells whether all values are finite."""
    return bool(finite(values))


def finite(values: Tensor) -> Tensor:
    """Tells the same as a bool tensor, [], which is not read from its device yet. One pass is enough, because
    inf and NaN show in the extremes."""
    if values.numel() == 0:
        return torch.ones((), dtype=torch.bool, device=values.device)
    return torch.isfinite(torch.stack(values.aminmax())).all()


def zeroed(weight_OI: Tensor, keep_OI: Tensor) -> Tensor:
    """Returns the kept weights, with +0 elsewhere, [O, I]. It multiplies integers, because masked_fill takes
    15 times as long on a CPU, and a product of floats leaves -0 and NaN."""
    bits_OI = weight_OI.view(_INTEGERS[weight_OI.element_size()])
    return (bits_OI * keep_OI).view(weight_OI.dtype)


def keep_of_groups(saliency_OI: Tensor, *, keep: int, group: int) -> Tensor:
    """Returns bool [O, I]: True at the `keep` largest of each `group` consecutive inputs.

    `saliency_OI` consists of whole groups. A weight's rank is the number of weights in its group that are
    pruned before it: the smaller ones, and equal ones at a lower index. Comparing all pairs is faster than
    sorting groups this small.
    """
    x_MG = saliency_OI.reshape(-1, group).t().contiguous()
    keep_MG = torch.empty_like(x_MG, dtype=torch.bool)
    for m, x_G in enumerate(x_MG):
        rank_G = torch.zeros_like(x_G, dtype=torch.uint8)
        for other, y_G in enumerate(x_MG):
            if other < m:
                rank_G += y_G <= x_G
            elif other > m:
                rank_G += y_G < x_G
        keep_MG[m] = rank_G >= group - keep
    return keep_MG.t().reshape(saliency_OI.shape)


def _exact_share(x_RC: Tensor, sparsity: float) -> Tensor:
    """Returns bool [R, C]: True at round(R·C·s) entries, int(C·s) per row; the rows with the smallest next
    entry get one more."""
    rows, columns = x_RC.shape
    each = int(columns * sparsity)
    return smallest(x_RC, each=each, extra=round(rows * columns * sparsity) - rows * each)


def smallest(x_RC: Tensor, *, each: int, extra: int) -> Tensor:
    """Returns bool [R, C]: True at the `each` smallest of every row, and at one more in each of `extra` rows.

    These are the rows whose next smallest entry is smallest; among equal ones the lowest index wins. With
    `each` = C all entries are True.
    """
    if each == extra == 0:
        return torch.zeros_like(x_RC, dtype=torch.bool)
    if each == x_RC.shape[1]:
        return torch.ones_like(x_RC, dtype=torch.bool)
    # The next smallest entry serves both counts: at most `each` lie below it, more than `each` up to it.
    threshold_R1 = _kth_smallest(x_RC, each + 1)
    count_R1 = torch.full_like(threshold_R1, each, dtype=torch.long)
    count_R1[threshold_R1[:, 0].sort(stable=True).indices[:extra]] += 1

    above_R1 = torch.nextafter(threshold_R1, torch.full_like(threshold_R1, torch.inf))
    prune_RC = x_RC < torch.where(count_R1 > each, above_R1, threshold_R1)
    tied_R = torch.count_nonzero(prune_RC, dim=1) != count_R1[:, 0]  # entries that equal the next smallest
    if tied_R.any():
        prune_RC[tied_R] = _with_ties(x_RC[tied_R], threshold_R1[tied_R], count_R1[tied_R])
    return prune_RC


def _with_ties(x_RC: Tensor, threshold_R1: Tensor, count_R1: Tensor) -> Tensor:
    """Returns bool [R, C]: True below the threshold, and at the first entries equal to it, up to the
    count."""
    below_RC = x_RC < threshold_R1
    equal_RC = x_RC == threshold_R1
    missing_R1 = count_R1 - below_RC.sum(dim=1, keepdim=True)
    return below_RC | (equal_RC & (equal_RC.cumsum(dim=1, dtype=torch.int32) <= missing_R1))


def _kth_smallest(x_RC: Tensor, k: int) -> Tensor:
    """The k-th smallest entry of each row, k from 1, [R, 1]."""
    if x_RC.is_cuda:  # torch.use_deterministic_algorithms forbids kthvalue on CUDA
        return x_RC.sort(dim=1).values[:, k - 1 : k]
    if x_RC.dtype not in (torch.float32, torch.float64):
        return x_RC.kthvalue(k, dim=1, keepdim=True).values
    found_R1 = torch.empty_like(x_RC[:, :1])  # numpy's partition uses vector instructions, 6 times faster
    rows = max(PARTITIONED // x_RC.shape[1], 1)
    for from_RC, to_R1 in zip(x_RC.split(rows), found_R1.split(rows), strict=True):
        to_R1.copy_(torch.from_numpy(np.partition(from_RC.numpy(), k - 1, axis=1)[:, k - 1 : k]))
    return found_R1


def _running_sums(x_OI: Tensor) -> Tensor:
    """The sums of each row's entries up to each, float64 [O, I], added from left to right on every device.
    CUDA's cumsum adds in an order of its own, which may change from run to run."""
    if x_OI.device.type == "cpu":
        return x_OI.cumsum(dim=1, dtype=torch.float64)
    sums_IO = x_OI.t().to(torch.float64, memory_format=torch.contiguous_format, copy=True)
    for before_O, sum_O in itertools.pairwise(sums_IO):
        sum_O += before_O
    return sums_IO.t().contiguous()


def _count_by_alpha_search(ascending_OI: Tensor, summed_OI: Tensor, sparsity: float) -> Tensor:
    """The zeros per row, int64 [O], at which the published bisection of α stops."""
    low, alpha, high = 0.0, ALPHA_START, ALPHA_LIMIT
    while True:
        counts_O = _count_below_share(ascending_OI, summed_OI, alpha)
        reached = int(counts_O.sum()) / ascending_OI.numel()
        if abs(reached - sparsity) <= ALPHA_TOLERANCE or high - low < ALPHA_TOLERANCE:
            return counts_O
        if reached > sparsity:
            alpha, high = (alpha + low) / 2, alpha
        else:
            alpha, low = (alpha + high) / 2, alpha


def _count_below_share(ascending_OI: Tensor, summed_OI: Tensor, alpha: float) -> Tensor:
    """The zeros per row, int64 [O]: weights up to the last whose running sum is within α of the row's, and
    ties."""
    within_O1 = (summed_OI <= alpha * summed_OI[:, -1:]).sum(dim=1, keepdim=True)
    threshold_O1 = ascending_OI.gather(1, (within_O1 - 1).clamp(min=0))
    upto_O1 = torch.searchsorted(ascending_OI, threshold_O1, right=True)
    return torch.where(within_O1 > 0, upto_O1, 0)[:, 0]
