"""Windows of calibration, perplexity and divergence."""

import math
import random
from collections.abc import Sequence

import numpy as np


def random_windows(
    documents: Sequence[Sequence[int]], *, samples: int, sequence_length: int, seed: int
) -> list[list[int]]:
    """Published calibration: draw documents until one is longer than the window, then draw its start."""
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
    """The exp of the mean over windows of the mean cross-entropy of tokens 1.. [n, L]; logits [n, L, V]."""
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
    """The mean over rows of KL or Jensen-Shannon of softmax(logits / temperature), times temperature²."""
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
