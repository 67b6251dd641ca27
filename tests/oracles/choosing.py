"""Which weights stay by which saliency, and how many of each block."""

import math
from collections.abc import Sequence

import numpy as np


def input_norm(samples: Sequence[np.ndarray]) -> np.ndarray:
    """Per feature, the sqrt of the mean over samples [T, I] of the squared L2 norm over a sample's tokens."""
    features = samples[0].shape[1]
    norm = np.zeros(features)
    for j in range(features):
        total = 0.0
        for sample in samples:
            for token in range(sample.shape[0]):
                total += float(sample[token, j]) ** 2
        norm[j] = math.sqrt(total / len(samples))
    return norm


def magnitude_saliency(weight: np.ndarray) -> np.ndarray:
    """The saliency |W|, in float32."""
    saliency = np.zeros(weight.shape, dtype=np.float32)
    for i in range(weight.shape[0]):
        for j in range(weight.shape[1]):
            saliency[i, j] = abs(np.float32(weight[i, j]))
    return saliency


def wanda_saliency(weight: np.ndarray, norm: np.ndarray) -> np.ndarray:
    """The saliency |W_ij| * norm_j, in float32."""
    saliency = np.zeros(weight.shape, dtype=np.float32)
    for i in range(weight.shape[0]):
        for j in range(weight.shape[1]):
            saliency[i, j] = abs(np.float32(weight[i, j])) * np.float32(norm[j])
    return saliency


def keep_rows_floor(saliency: np.ndarray, sparsity: float) -> np.ndarray:
    """Published Wanda: int(I*s) weights of each row go, smallest first, equal ones by index."""
    rows, columns = saliency.shape
    keep = np.ones((rows, columns), dtype=bool)
    for i in range(rows):
        order = sorted(range(columns), key=lambda j: (saliency[i, j], j))
        for j in order[: int(columns * sparsity)]:
            keep[i, j] = False
    return keep


def keep_rows_exact(saliency: np.ndarray, sparsity: float) -> np.ndarray:
    """keep_rows_floor, then one more in rows whose next saliency is smallest, until round(O*I*s) go."""
    rows, columns = saliency.shape
    keep = keep_rows_floor(saliency, sparsity)
    next_smallest = []
    for i in range(rows):
        kept = [j for j in range(columns) if keep[i, j]]
        j = min(kept, key=lambda j: (saliency[i, j], j))
        next_smallest.append((saliency[i, j], i, j))
    missing = round(rows * columns * sparsity) - rows * int(columns * sparsity)
    for _, i, j in sorted(next_smallest)[:missing]:
        keep[i, j] = False
    return keep


def keep_matrix_floor(saliency: np.ndarray, sparsity: float) -> np.ndarray:
    """Published magnitude: weights up to element int(O*I*s) of the sorted matrix go; none for s = 0."""
    rows, columns = saliency.shape
    keep = np.ones((rows, columns), dtype=bool)
    if sparsity == 0:
        return keep
    ascending = sorted(saliency[i, j] for i in range(rows) for j in range(columns))
    threshold = ascending[int(rows * columns * sparsity)]
    for i in range(rows):
        for j in range(columns):
            keep[i, j] = saliency[i, j] > threshold
    return keep


def keep_matrix_exact(saliency: np.ndarray, sparsity: float) -> np.ndarray:
    """round(O*I*s) weights of the matrix go, smallest first, equal ones in row-major order."""
    rows, columns = saliency.shape
    keep = np.ones((rows, columns), dtype=bool)
    places = [(i, j) for i in range(rows) for j in range(columns)]
    places.sort(key=lambda place: (saliency[place], place))
    for place in places[: round(rows * columns * sparsity)]:
        keep[place] = False
    return keep


def keep_nm(saliency: np.ndarray, keep_count: int, group: int) -> np.ndarray:
    """The smallest group - keep_count weights of each group of consecutive inputs go, equal ones by index."""
    rows, columns = saliency.shape
    keep = np.ones((rows, columns), dtype=bool)
    for i in range(rows):
        for start in range(0, columns, group):
            order = sorted(range(start, start + group), key=lambda j: (saliency[i, j], j))
            for j in order[: group - keep_count]:
                keep[i, j] = False
    return keep


def keep_wanda_variant_floor(saliency: np.ndarray, sparsity: float) -> np.ndarray:
    """Published variant: bisect alpha from 0.4 in [0, 0.8] until within 0.001; s = 0 keeps all."""
    rows, columns = saliency.shape
    if sparsity == 0:
        return np.ones((rows, columns), dtype=bool)
    low, alpha, high = 0.0, 0.4, 0.8
    keep = _keep_above_share(saliency, alpha)
    while abs((~keep).sum() / keep.size - sparsity) > 0.001 and high - low >= 0.001:
        if (~keep).sum() / keep.size > sparsity:
            high = alpha
            alpha = (alpha + low) / 2
        else:
            low = alpha
            alpha = (alpha + high) / 2
        keep = _keep_above_share(saliency, alpha)
    return keep


def _keep_above_share(saliency: np.ndarray, alpha: float) -> np.ndarray:
    keep = np.ones(saliency.shape, dtype=bool)
    for i, row in enumerate(saliency):
        sums = _running_sums(row)
        pairs = zip(sorted(row), sums, strict=True)
        within = [value for value, running in pairs if running <= alpha * sums[-1]]
        if within:
            keep[i] = row > within[-1]
    return keep


def keep_wanda_variant_exact(saliency: np.ndarray, sparsity: float) -> np.ndarray:
    """The share of a weight is the running sum of its row up to it over the row's sum; the round(O*I*s)
    weights with the smallest shares go."""
    rows, columns = saliency.shape
    share = np.zeros((rows, columns))
    for i in range(rows):
        order = sorted(range(columns), key=lambda j: (saliency[i, j], j))
        sums = _running_sums(saliency[i])
        for position, j in enumerate(order):
            share[i, j] = sums[position] / sums[-1] if sums[-1] > 0 else 0.0
    return keep_matrix_exact(share, sparsity)


def _running_sums(row: np.ndarray) -> list[float]:
    sums, total = [], 0.0
    for value in sorted(row):
        total += float(value)
        sums.append(total)
    return sums


def outlier_ratio(saliencies: Sequence[np.ndarray], multiplier: float) -> float:
    """The percentage of a block's saliencies above multiplier times their mean (float32, as published)."""
    everything = [float(value) for saliency in saliencies for value in saliency.reshape(-1)]
    threshold = np.float32(multiplier * (math.fsum(everything) / len(everything)))
    return 100 * sum(1 for value in everything if value > threshold) / len(everything)


def owl_sparsity(ratios: Sequence[float], sparsity: float, spread: float) -> list[float]:
    """Published OWL: 1 - density, which is (r - min)/(max - min)*2*spread, shifted to the requested mean."""
    low, high = min(ratios), max(ratios)
    density = [(ratio - low) / (high - low) * 2 * spread for ratio in ratios]
    mean = sum(density) / len(density)
    return [1 - (value - mean + (1 - sparsity)) for value in density]


def owl_zeros_floor(ratios: Sequence[float], zeros: int, spread: float) -> list[int]:
    """Published mixed N:M: the zeros per group of each block, with the shift rounded half to even."""
    low, high = min(ratios), max(ratios)
    shift = [(ratio - low) / (high - low) * spread for ratio in ratios]
    mean = sum(shift) / len(shift)
    return [zeros - round(value - mean) for value in shift]


def owl_zeros_exact(ratios: Sequence[float], zeros: int, spread: float) -> list[int]:
    """Round each block's kept weights down, then up where most was lost, until the mean is as requested."""
    low, high = min(ratios), max(ratios)
    shift = [(ratio - low) / (high - low) * spread for ratio in ratios]
    mean = sum(shift) / len(shift)
    wanted = [round(value - mean, 9) for value in shift]
    got = [math.floor(value) for value in wanted]
    while sum(got) < 0:
        lost = [round(w - g, 9) for w, g in zip(wanted, got, strict=True)]
        got[lost.index(max(lost))] += 1
    return [zeros - value for value in got]


def regrow(weight: np.ndarray, keep: np.ndarray, gradient: np.ndarray, share: float) -> np.ndarray:
    """RigL on flat arrays: drop the smallest kept weights, grow pruned ones with the largest gradients."""
    kept = [i for i in range(keep.size) if keep[i]]
    pruned = [i for i in range(keep.size) if not keep[i]]
    moved = round(share * len(kept))
    dropped = sorted(kept, key=lambda i: (abs(weight[i]), i))[:moved]
    new = keep.copy()
    new[dropped] = False
    grown = sorted(pruned, key=lambda i: (-abs(gradient[i]), i))[:moved]
    grown += sorted(dropped, key=lambda i: (-abs(gradient[i]), i))[: moved - len(grown)]
    new[grown] = True
    return new


def ria_saliency(weight: np.ndarray, norm: np.ndarray, power: float) -> np.ndarray:
    """The saliency (|W_ij| / column sum + |W_ij| / row sum) * norm_j ** power."""
    size = np.abs(weight.astype(np.float64))
    saliency = np.zeros(weight.shape)
    for i in range(weight.shape[0]):
        for j in range(weight.shape[1]):
            column, row = size[:, j].sum(), size[i, :].sum()
            share = (size[i, j] / column if column else 0.0) + (size[i, j] / row if row else 0.0)
            saliency[i, j] = share * norm[j] ** power
    return saliency
