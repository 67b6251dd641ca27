"""New values of the weights that stay, and masks that are improved by them."""

import math

import numpy as np


def obs_row(weight: np.ndarray, hessian: np.ndarray, keep: np.ndarray, *, damping: float) -> np.ndarray:
    """One row [I] by optimal brain surgeon in column order. For each column, the inverse Hessian of the
    remaining columns is computed anew, and zeroing a weight changes only weights to its right."""
    weight = weight.astype(np.float64).copy()
    hessian = hessian.astype(np.float64) + damping * np.mean(np.diag(hessian)) * np.eye(len(weight))
    for j in range(len(weight)):
        inverse = np.linalg.inv(hessian[j:, j:])
        if not keep[j]:
            weight[j:] -= weight[j] / inverse[0, 0] * inverse[0]
            weight[j] = 0
    return weight


def gptq_row(
    weight: np.ndarray, hessian: np.ndarray, scales: np.ndarray, *, bits: int, damping: float
) -> np.ndarray:
    """One row [I] by GPTQ in column order, with one of `scales` for each of as many equal groups. For each
    column, the inverse Hessian of the remaining columns is computed anew, and rounding a weight changes only
    weights to its right. Weights that were zero end as zero."""
    pruned = weight == 0
    weight = weight.astype(np.float64).copy()
    hessian = hessian.astype(np.float64) + damping * np.mean(np.diag(hessian)) * np.eye(len(weight))
    for j in range(len(weight)):
        scale = float(scales[j * len(scales) // len(weight)])
        code = min(max(round(weight[j] / scale), -(2 ** (bits - 1))), 2 ** (bits - 1) - 1)
        final = 0.0 if pruned[j] else code * scale
        inverse = np.linalg.inv(hessian[j:, j:])
        weight[j:] -= (weight[j] - final) / inverse[0, 0] * inverse[0]
        weight[j] = final
    return weight


def sparsegpt_row_block(
    weight: np.ndarray, hessian: np.ndarray, zeros: int, *, damping: float
) -> tuple[np.ndarray, np.ndarray]:
    """SparseGPT on a matrix [O, I] in one column block: weights are scored before anything is pruned, the
    `zeros` smallest scores go, and obs_row prunes every row. Returns keep and new weights."""
    rows, columns = weight.shape
    damped = hessian.astype(np.float64) + damping * np.mean(np.diag(hessian)) * np.eye(columns)
    score = np.zeros(weight.shape)
    for j in range(columns):
        inverse = np.linalg.inv(damped[j:, j:])
        for i in range(rows):
            score[i, j] = weight[i, j] ** 2 / inverse[0, 0]
    keep = np.ones(weight.shape, dtype=bool)
    places = sorted(
        ((i, j) for i in range(rows) for j in range(columns)), key=lambda place: (score[place], place)
    )
    for place in places[:zeros]:
        keep[place] = False
    return keep, np.stack([obs_row(weight[i], hessian, keep[i], damping=damping) for i in range(rows)])


def ridge_on_support(
    weight: np.ndarray, gram: np.ndarray, keep: np.ndarray, *, ridge: np.ndarray
) -> np.ndarray:
    """The exact minimum of ||X w - X w0||² + Σ ridge_j (w_j - w0_j)² over the kept weights of each row."""
    damped = gram.astype(np.float64) + np.diag(ridge)
    new = np.zeros(weight.shape)
    for i in range(weight.shape[0]):
        kept = np.flatnonzero(keep[i])
        if len(kept):
            wanted = damped[kept] @ weight[i].astype(np.float64)
            new[i, kept] = np.linalg.solve(damped[np.ix_(kept, kept)], wanted)
    return new


def swap_row(
    weight: np.ndarray,
    keep: np.ndarray,
    mean: np.ndarray,
    variance: np.ndarray,
    norm: np.ndarray,
    *,
    cycles: int,
    threshold: float,
) -> np.ndarray:
    """Grow and drop weights of one row [I] until its expected error is small, or no swap reduces it."""
    keep = keep.copy()
    for _ in range(cycles):
        error = sum(weight[j] * mean[j] for j in range(len(weight)) if not keep[j])
        pruned = [j for j in range(len(weight)) if not keep[j]]
        sign = math.copysign(1, error)
        lowers = [j for j in range(len(weight)) if keep[j] and weight[j] * mean[j] * sign < 0]
        if abs(error) <= threshold or not pruned or not lowers:
            break
        grown = max(pruned, key=lambda j: (sign * weight[j] * mean[j] / variance[j], -j))
        gone = min(lowers, key=lambda j: (abs(weight[j]) * norm[j], j))
        if abs(error - weight[grown] * mean[grown] + weight[gone] * mean[gone]) >= abs(error):
            break
        keep[grown], keep[gone] = True, False
    return keep
