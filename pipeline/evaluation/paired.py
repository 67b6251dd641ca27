"""Paired statistics: how far two models differ, when both answered the same documents.

The interval is the bootstrap's BCa interval (Efron, JASA 82, 1987; with strata as in Davison and Hinkley,
Bootstrap Methods and their Application, 1997, section 5.3): pairs are drawn with replacement, so that what
makes a document hard for both models cancels. BCa is taken rather than percentiles because perplexities are
skewed and windows are few. The p-value is exact where a document is right or wrong (McNemar's test by the
binomial distribution); else the signs of the pairs' differences are flipped at random, and the observed
difference counts among the flips (Phipson and Smyth, Stat. Appl. Genet. Mol. Biol. 9, 2010).

All draws have one fixed seed, so equal figures give equal statistics.

Shape legend: B resamples, U units (documents or windows), V distinct values of a unit.
"""

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from pipeline.evaluation.difference import LEVELS, OneSided, PairedDifference
from pipeline.evaluation.task_samples import Stratum

RESAMPLES = 10_000
SEED = 0
MIN_UNITS = 10  # fewer pairs say nothing about their spread
AT_ONCE = 2_000_000  # numbers that are drawn at once
MAX_LOSS = 700.0  # nats; exp of more is no number
TIE = 1e-12  # relative; sums that differ by less are equal

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]
Statistic = Callable[[Floats], Floats]  # how often each value was drawn [B, V] → the statistic [B]


@dataclass(frozen=True)
class _Part:
    """Units that are drawn among themselves. `units`: how many have each value; a resample has as many in
    all. `influence_U`: how far each unit moves the figure."""

    units: Counts
    statistic: Statistic
    influence_U: Floats


def paired_mean(strata: Sequence[Stratum]) -> PairedDifference | None:
    """The difference of two means over documents, weighted by stratum. Documents are drawn within their
    stratum. None where there are fewer than MIN_UNITS documents."""
    units = sum(len(stratum.before) for stratum in strata)
    if units < MIN_UNITS:
        return None
    parts, shares = [], []
    for stratum in strata:
        before, after = np.asarray(stratum.before), np.asarray(stratum.after)
        change_U = after - before
        values_V, counts_V = np.unique(change_U, return_counts=True)
        share = stratum.weight / len(change_U)
        parts.append(_Part(counts_V, _weighted_sum(values_V, share), share * (change_U - change_U.mean())))
        shares.append(share * change_U)
    value = math.fsum(float(share_U.sum()) for share_U in shares)
    flipped_U = np.concatenate(shares)
    if _is_binary(strata):
        wins, losses = int((flipped_U > 0).sum()), int((flipped_U < 0).sum())
        return _described(value, parts, units=units, p_value=mcnemar(wins, losses), test="mcnemar")
    return _described(value, parts, units=units, p_value=sign_flip(flipped_U), test="sign_flip")


@functools.lru_cache(maxsize=128)  # a report asks for the same texts at several places
def paired_perplexity(
    before: tuple[float, ...], after: tuple[float, ...], tokens: tuple[int, ...]
) -> PairedDifference | None:
    """The difference of two perplexities. `before`, `after`: mean loss of each window, in nats; `tokens`: how
    many it scores. None where there are fewer than MIN_UNITS windows, or a loss whose perplexity is no
    number."""
    if len(tokens) < MIN_UNITS or max(*before, *after) > MAX_LOSS:
        return None
    tokens_U = np.asarray(tokens, dtype=np.float64)
    sums_UM = np.stack([np.asarray(before), np.asarray(after)], axis=1) * tokens_U[:, None]

    def statistic(drawn_BU: Floats) -> Floats:
        perplexity_BM = np.exp((drawn_BU @ sums_UM) / (drawn_BU @ tokens_U)[:, None])
        changed_B: Floats = perplexity_BM[:, 1] - perplexity_BM[:, 0]
        return changed_B

    loss_M = sums_UM.sum(axis=0) / tokens_U.sum()
    moved_UM = np.exp(loss_M) * (sums_UM - tokens_U[:, None] * loss_M) / tokens_U.sum()
    whole = np.ones(len(tokens), dtype=np.int64)
    value = float(statistic(whole[None].astype(np.float64))[0])
    return _described(
        value,
        [_Part(whole, statistic, moved_UM[:, 1] - moved_UM[:, 0])],
        units=len(tokens),
        p_value=sign_flip(sums_UM[:, 1] - sums_UM[:, 0]),
        test="sign_flip",
    )


def mcnemar(wins: int, losses: int) -> float:
    """The two-sided p-value of `wins` and `losses` among the documents on which two models differ, if either
    were as likely: 2 P(X ≤ the smaller), X ~ Binomial(wins + losses, 1/2), and at most 1."""
    drawn = wins + losses
    tail = ways = 1  # of drawing none; one more changes them by a ratio
    for k in range(min(wins, losses)):
        ways = ways * (drawn - k) // (k + 1)
        tail += ways
    return min(1.0, float(Fraction(2 * tail, 2**drawn)))


def sign_flip(change_U: Floats) -> float:
    """The two-sided p-value of the sum of changes, if each were as likely to have the other sign."""
    sizes_V, counts_V = np.unique(np.abs(change_U), return_counts=True)
    observed = abs(float(change_U.sum())) * (1 - TIE)
    rng = np.random.default_rng(SEED)
    extreme = 0
    for resamples in _portions(len(sizes_V)):
        kept_BV = _kept(rng, counts_V, resamples)
        extreme += int((np.abs((2 * kept_BV - counts_V) @ sizes_V) >= observed).sum())
    return (extreme + 1) / (RESAMPLES + 1)


def bca(
    estimates_B: Floats, value: float, influence_U: Floats, *, levels: Sequence[float]
) -> tuple[float, ...]:
    """The ends of BCa intervals: for each level in (0, 1) the value that the figure exceeds with a confidence
    of 1 - level. `estimates_B`: the figure of each resample; `influence_U`: how far each unit moves it."""
    below = (np.mean(estimates_B < value) + np.mean(estimates_B <= value)) / 2
    edge = 1 / (len(estimates_B) + 1)  # no resample on one side: as far as this many can tell
    normal = NormalDist()
    bias = normal.inv_cdf(min(max(float(below), edge), 1 - edge))
    squares = float((influence_U**2).sum())
    acceleration = float((influence_U**3).sum()) / (6 * squares**1.5) if squares > 0 else 0.0

    def corrected(level: float) -> float:
        z = bias + normal.inv_cdf(level)
        return normal.cdf(bias + z / (1 - acceleration * z))

    ends = np.quantile(estimates_B, [corrected(level) for level in levels])
    return tuple(float(end) for end in ends)


def _described(
    value: float, parts: Sequence[_Part], *, units: int, p_value: float, test: str
) -> PairedDifference:
    rng = np.random.default_rng(SEED)
    estimates_B = np.zeros(RESAMPLES)
    observed = 0.0
    for part in parts:
        drawn = [
            part.statistic(_drawn(rng, part.units, resamples).astype(np.float64))
            for resamples in _portions(len(part.units))
        ]
        estimates_B += np.concatenate(drawn)
        observed += float(part.statistic(part.units[None].astype(np.float64))[0])
    tails = [(100 - level) / 100 for level in LEVELS]
    low, high, *ends = bca(
        estimates_B,
        observed,
        np.concatenate([part.influence_U for part in parts]),
        levels=[0.025, 0.975, *tails, *(1 - tail for tail in tails)],
    )
    lower, upper = ends[: len(LEVELS)], ends[len(LEVELS) :]
    return PairedDifference.model_validate(
        {
            "value": value,
            "low": low,
            "high": high,
            "units": units,
            "p_value": p_value,
            "test": test,
            "one_sided": tuple(
                OneSided(level=level, lower=first, upper=last)
                for level, first, last in zip(LEVELS, lower, upper, strict=True)
            ),
        }
    )


def _weighted_sum(values_V: Floats, share: float) -> Statistic:
    def statistic(drawn_BV: Floats) -> Floats:
        total_B: Floats = (drawn_BV @ values_V) * share
        return total_B

    return statistic


def _is_binary(strata: Sequence[Stratum]) -> bool:
    """Tell whether each document is right or wrong and counts as much as any other."""
    shares = [stratum.weight / len(stratum.before) for stratum in strata]
    alike = all(math.isclose(share, shares[0]) for share in shares)
    return alike and all({*stratum.before, *stratum.after} <= {0.0, 1.0} for stratum in strata)


def _drawn(rng: np.random.Generator, counts_V: Counts, resamples: int) -> Counts:
    """How often each value is drawn with replacement [B, V]."""
    size, values = int(counts_V.sum()), len(counts_V)
    if _few(counts_V):
        return rng.multinomial(size, counts_V / size, size=resamples)
    of_unit_U = np.repeat(np.arange(values), counts_V)
    drawn_BU = of_unit_U[rng.integers(0, size, size=(resamples, size))]
    drawn_BU += values * np.arange(resamples)[:, None]
    return np.bincount(drawn_BU.ravel(), minlength=resamples * values).reshape(resamples, values)


def _kept(rng: np.random.Generator, counts_V: Counts, resamples: int) -> Counts:
    """How many units of each value keep their sign [B, V], if each is as likely to lose it."""
    if _few(counts_V) or counts_V.max() > 1:
        return rng.binomial(counts_V, 0.5, size=(resamples, len(counts_V)))
    return rng.integers(0, 2, size=(resamples, len(counts_V)), dtype=np.int64)


def _few(counts_V: Counts) -> bool:
    """Tell whether it is quicker to draw the number of each value than to draw units."""
    return 10 * len(counts_V) < int(counts_V.sum())


def _portions(values: int) -> Iterator[int]:
    """Divide all resamples into portions that fit into memory."""
    portion = max(1, AT_ONCE // max(values, 1))
    for first in range(0, RESAMPLES, portion):
        yield min(portion, RESAMPLES - first)
