"""The formulas as loops: slow, and plain enough to be checked by eye against the papers.

Nothing here comes from `pipeline`. Matrices are numpy arrays [out_features, in_features]; keep is True where
a weight stays. float32 only where the definition says so.
"""

import math
import random
from collections.abc import Sequence

import numpy as np


def input_norm(samples: Sequence[np.ndarray]) -> np.ndarray:
    """Per feature: sqrt of the mean over samples [T, I] of the squared L2 norm over the sample's tokens."""
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
    """|W|, float32."""
    saliency = np.zeros(weight.shape, dtype=np.float32)
    for i in range(weight.shape[0]):
        for j in range(weight.shape[1]):
            saliency[i, j] = abs(np.float32(weight[i, j]))
    return saliency


def wanda_saliency(weight: np.ndarray, norm: np.ndarray) -> np.ndarray:
    """|W_ij| * norm_j, float32."""
    saliency = np.zeros(weight.shape, dtype=np.float32)
    for i in range(weight.shape[0]):
        for j in range(weight.shape[1]):
            saliency[i, j] = abs(np.float32(weight[i, j])) * np.float32(norm[j])
    return saliency


def keep_rows_floor(saliency: np.ndarray, sparsity: float) -> np.ndarray:
    """Published Wanda: int(I*s) of each row, smallest first, equals by index."""
    rows, columns = saliency.shape
    keep = np.ones((rows, columns), dtype=bool)
    for i in range(rows):
        order = sorted(range(columns), key=lambda j: (saliency[i, j], j))
        for j in order[: int(columns * sparsity)]:
            keep[i, j] = False
    return keep


def keep_rows_exact(saliency: np.ndarray, sparsity: float) -> np.ndarray:
    """keep_rows_floor, then one more in rows of the smallest next saliency, until round(O*I*s) are zero."""
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
    """Published magnitude: all up to the element at int(O*I*s) of the sorted matrix; nothing for s = 0."""
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
    """round(O*I*s) of the matrix, smallest first, equals by index in reading order."""
    rows, columns = saliency.shape
    keep = np.ones((rows, columns), dtype=bool)
    places = [(i, j) for i in range(rows) for j in range(columns)]
    places.sort(key=lambda place: (saliency[place], place))
    for place in places[: round(rows * columns * sparsity)]:
        keep[place] = False
    return keep


def keep_nm(saliency: np.ndarray, keep_count: int, group: int) -> np.ndarray:
    """The group - keep smallest of each group of consecutive inputs go, equals by index."""
    rows, columns = saliency.shape
    keep = np.ones((rows, columns), dtype=bool)
    for i in range(rows):
        for start in range(0, columns, group):
            order = sorted(range(start, start + group), key=lambda j: (saliency[i, j], j))
            for j in order[: group - keep_count]:
                keep[i, j] = False
    return keep


def keep_wanda_variant_floor(saliency: np.ndarray, sparsity: float) -> np.ndarray:
    """Published variant: alpha from 0.4 within [0, 0.8], halved until within 0.001; nothing for s = 0."""
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
    """A weight's share is its row's running sum up to it over the row's sum; the round(O*I*s) smallest go."""
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
    """Percent of a block's saliencies above multiplier times their mean (float32 threshold, as published)."""
    everything = [float(value) for saliency in saliencies for value in saliency.reshape(-1)]
    threshold = np.float32(multiplier * (math.fsum(everything) / len(everything)))
    return 100 * sum(1 for value in everything if value > threshold) / len(everything)


def owl_sparsity(ratios: Sequence[float], sparsity: float, spread: float) -> list[float]:
    """Published OWL: density (r - min)/(max - min)*2*spread, shifted to the asked mean; 1 - density."""
    low, high = min(ratios), max(ratios)
    density = [(ratio - low) / (high - low) * 2 * spread for ratio in ratios]
    mean = sum(density) / len(density)
    return [1 - (value - mean + (1 - sparsity)) for value in density]


def owl_zeros_floor(ratios: Sequence[float], zeros: int, spread: float) -> list[int]:
    """Published mixed N:M: zeros per group of each block, the shift rounded half to even."""
    low, high = min(ratios), max(ratios)
    shift = [(ratio - low) / (high - low) * spread for ratio in ratios]
    mean = sum(shift) / len(shift)
    return [zeros - round(value - mean) for value in shift]


def owl_zeros_exact(ratios: Sequence[float], zeros: int, spread: float) -> list[int]:
    """Round each block's kept weights down, then up again where most was lost, until the mean is as asked."""
    low, high = min(ratios), max(ratios)
    shift = [(ratio - low) / (high - low) * spread for ratio in ratios]
    mean = sum(shift) / len(shift)
    wanted = [round(value - mean, 9) for value in shift]
    got = [math.floor(value) for value in wanted]
    while sum(got) < 0:
        lost = [round(w - g, 9) for w, g in zip(wanted, got, strict=True)]
        got[lost.index(max(lost))] += 1
    return [zeros - value for value in got]


def random_windows(
    documents: Sequence[Sequence[int]], *, samples: int, sequence_length: int, seed: int
) -> list[list[int]]:
    """Published calibration: documents drawn until one is longer than the window, then where it starts."""
    rng = random.Random(seed)
    windows = []
    for _ in range(samples):
        while True:
            document = documents[rng.randint(0, len(documents) - 1)]
            if len(document) > sequence_length:
                break
        start = rng.randint(0, len(document) - sequence_length - 1)
        windows.append(list(document[start : start + sequence_length]))
    return windows


def perplexity(logits: np.ndarray, tokens: np.ndarray) -> float:
    """exp of the mean over windows of the mean cross-entropy of tokens 1.. [n, L] given logits [n, L, V]."""
    windows = []
    for window in range(tokens.shape[0]):
        losses = []
        for position in range(tokens.shape[1] - 1):
            scores = [float(score) for score in logits[window, position]]
            top = max(scores)
            log_sum = top + math.log(math.fsum(math.exp(score - top) for score in scores))
            losses.append(log_sum - scores[tokens[window, position + 1]])
        windows.append(math.fsum(losses) / len(losses))
    return math.exp(math.fsum(windows) / len(windows))


def divergence(
    student: np.ndarray, teacher: np.ndarray, kind: str, temperature: float, top_k: int | None = None
) -> float:
    """Mean over rows of KL or Jensen-Shannon between softmax(logits / temperature), times temperature²."""
    total = 0.0
    for s, t in zip(student, teacher, strict=True):
        p, q = _softmax(t, temperature), _softmax(s, temperature)
        if top_k is not None:
            chosen = sorted(range(len(t)), key=lambda j: -t[j])[:top_k]
            p, q = (
                [x[j] for j in chosen] + [math.fsum(v for j, v in enumerate(x) if j not in chosen)]
                for x in (p, q)
            )
        if kind == "forward":
            total += _kl(p, q)
        elif kind == "reverse":
            total += _kl(q, p)
        else:
            mixture = [(a + b) / 2 for a, b in zip(p, q, strict=True)]
            total += (_kl(p, mixture) + _kl(q, mixture)) / 2
    return total / len(student) * temperature**2


def _softmax(logits: np.ndarray, temperature: float) -> list[float]:
    scaled = [float(x) / temperature for x in logits]
    weights = [math.exp(x - max(scaled)) for x in scaled]
    return [w / math.fsum(weights) for w in weights]


def _kl(p: Sequence[float], q: Sequence[float]) -> float:
    return math.fsum(a * math.log(a / b) for a, b in zip(p, q, strict=True) if a > 0)


def regrow(weight: np.ndarray, keep: np.ndarray, gradient: np.ndarray, share: float) -> np.ndarray:
    """RigL on flat arrays: drop the smallest kept, grow the largest gradients among the pruned."""
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
