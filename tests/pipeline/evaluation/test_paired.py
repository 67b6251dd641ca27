"""Paired statistics against naive loops and scipy, and what must hold for any figures."""

import itertools
import math
import random
from collections.abc import Sequence
from statistics import NormalDist

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.evaluation.difference import PairedDifference
from pipeline.evaluation.paired import (
    MIN_UNITS,
    RESAMPLES,
    bca,
    mcnemar,
    paired_mean,
    paired_perplexity,
    sign_flip,
)
from pipeline.evaluation.task_samples import Stratum

RIGHT = st.sampled_from([0.0, 1.0])
SCORE = st.integers(-64, 64).map(lambda value: value / 32)
LOSS = st.integers(1, 400).map(lambda value: value / 50)


def pairs(value: st.SearchStrategy[float]) -> st.SearchStrategy[list[tuple[float, float]]]:
    return st.lists(st.tuples(value, value), min_size=MIN_UNITS, max_size=40)


def alone(found: Sequence[tuple[float, float]]) -> Stratum:
    return Stratum(1.0, tuple(a for a, _ in found), tuple(b for _, b in found))


def of(found: PairedDifference | None) -> PairedDifference:
    assert found is not None
    return found


def some_losses(windows: int, *, shift: float, seed: int = 3) -> tuple[tuple[float, ...], tuple[float, ...]]:
    rng = random.Random(seed)
    before = tuple(rng.gauss(3, 0.4) for _ in range(windows))
    return before, tuple(loss + shift + rng.gauss(0, 0.1) for loss in before)


class TestAgainstOracles:
    @given(st.integers(0, 300), st.integers(0, 300))
    def test_mcnemar_is_the_binomial_test(self, wins: int, losses: int) -> None:
        expected = scipy.stats.binomtest(wins, wins + losses).pvalue if wins + losses else 1.0
        assert mcnemar(wins, losses) == pytest.approx(expected, rel=1e-9)

    def test_mcnemar_of_thousands_is_exact(self) -> None:
        expected = scipy.stats.binomtest(4000, 8150).pvalue
        assert mcnemar(4000, 4150) == pytest.approx(expected, rel=1e-9)
        assert mcnemar(0, 5000) == 0.0  # too small for a number

    @pytest.mark.parametrize("seed", range(3))
    def test_sign_flips_approach_the_exact_permutation_test(self, seed: int) -> None:
        rng = random.Random(seed)
        change = [rng.gauss(0.3, 1) for _ in range(12)]
        sums = [sum(s * c for s, c in zip(signs, change, strict=True)) for signs in flips(12)]
        exact = sum(abs(total) >= abs(sum(change)) - 1e-12 for total in sums) / len(sums)
        assert sign_flip(np.array(change)) == pytest.approx(exact, abs=4 * math.sqrt(0.25 / RESAMPLES))

    def test_bca_is_the_textbook_s_formula(self) -> None:
        """A naive loop, with the acceleration of a mean from its jackknife values."""
        rng = np.random.default_rng(5)
        values = rng.exponential(size=25)
        estimates = np.array([rng.choice(values, 25).mean() for _ in range(4000)])
        mean = float(values.mean())
        jackknife = [(sum(values) - value) / 24 for value in values]
        centre = sum(jackknife) / 25
        cubes = sum((centre - one) ** 3 for one in jackknife)
        squares = sum((centre - one) ** 2 for one in jackknife)
        normal = NormalDist()
        bias = normal.inv_cdf(sum(estimate < mean for estimate in estimates) / 4000)
        ends = []
        for level in (0.025, 0.975):
            z = bias + normal.inv_cdf(level)
            place = normal.cdf(bias + z / (1 - cubes / (6 * squares**1.5) * z))
            ends.append(float(np.quantile(estimates, place)))
        found = bca(estimates, mean, (values - mean) / 25, levels=[0.025, 0.975])
        assert found == pytest.approx(ends, rel=1e-6)

    def test_the_interval_of_a_mean_is_scipy_s(self) -> None:
        rng = np.random.default_rng(7)
        before = rng.normal(size=60)
        after = before + rng.exponential(0.3, size=60)
        theirs = scipy.stats.bootstrap(
            (after - before,), np.mean, n_resamples=RESAMPLES, method="BCa", rng=np.random.default_rng(1)
        ).confidence_interval
        ours = of(paired_mean([Stratum(1.0, tuple(before), tuple(after))]))
        width = ours.high - ours.low
        assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=0.04 * width)

    def test_the_interval_of_perplexities_is_scipy_s(self) -> None:
        """Windows of one size: the statistic of both samples, drawn in pairs."""
        before, after = some_losses(40, shift=0.2)
        theirs = scipy.stats.bootstrap(
            (np.array(before), np.array(after)),
            lambda first, last, axis: np.exp(last.mean(axis=axis)) - np.exp(first.mean(axis=axis)),
            paired=True,
            n_resamples=RESAMPLES,
            method="BCa",
            rng=np.random.default_rng(1),
        ).confidence_interval
        ours = of(paired_perplexity(before, after, (511,) * 40))
        assert ours.value == pytest.approx(math.exp(sum(after) / 40) - math.exp(sum(before) / 40))
        width = ours.high - ours.low
        assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=0.04 * width)

    def test_long_windows_weigh_more(self) -> None:
        before, after = some_losses(12, shift=0.5)
        tokens = tuple(range(10, 22))
        found = of(paired_perplexity(before, after, tokens))
        first, last = (
            math.exp(sum(loss * count for loss, count in zip(losses, tokens, strict=True)) / sum(tokens))
            for losses in (before, after)
        )
        assert found.value == pytest.approx(last - first)

    def test_strata_are_drawn_by_themselves(self) -> None:
        """Two question sets of which each is equally hard for every document: nothing is left to chance, as
        it would be if documents moved between the sets."""
        first, second = Stratum(0.5, (0.0,) * 20, (0.1,) * 20), Stratum(0.5, (0.0,) * 5, (0.9,) * 5)
        found = of(paired_mean([first, second]))
        assert (found.value, found.low, found.high) == pytest.approx((0.5, 0.5, 0.5))

    def test_pairing_finds_what_two_separate_samples_hide(self) -> None:
        before, after = some_losses(60, shift=0.05)
        found = of(paired_perplexity(before, after, (511,) * 60))
        apart = scipy.stats.ttest_ind(before, after).pvalue
        assert found.stands_out
        assert found.p_value < 0.01 < 0.2 < apart


class TestAlways:
    @settings(max_examples=40, deadline=None)
    @given(pairs(RIGHT) | pairs(SCORE))
    def test_bounds_lie_in_order_within_what_documents_did(self, found: list[tuple[float, float]]) -> None:
        one = of(paired_mean([alone(found)]))
        changes = [after - before for before, after in found]
        assert one.value == pytest.approx(sum(changes) / len(changes), abs=1e-9)
        slack = 1e-9
        lower = [bounds.lower for bounds in one.one_sided]
        upper = [bounds.upper for bounds in one.one_sided]
        assert lower == sorted(lower, reverse=True)
        assert upper == sorted(upper)
        for end in (*lower, *upper, one.low, one.high):
            assert min(changes) - slack <= end <= max(changes) + slack
        assert one.at(99).lower <= one.low <= one.at(95).lower <= one.at(95).upper <= one.high
        assert 0 < one.p_value <= 1
        assert one == paired_mean([alone(found)])

    @settings(max_examples=40, deadline=None)
    @given(pairs(RIGHT))
    def test_the_other_way_round_has_the_other_sign(self, found: list[tuple[float, float]]) -> None:
        there = of(paired_mean([alone(found)]))
        back = of(paired_mean([alone([(after, before) for before, after in found])]))
        assert back.value == -there.value
        assert back.p_value == there.p_value

    @settings(max_examples=40, deadline=None)
    @given(pairs(LOSS))
    def test_perplexities_of_equal_models_do_not_differ(self, found: list[tuple[float, float]]) -> None:
        losses = tuple(loss for loss, _ in found)
        same = of(paired_perplexity(losses, losses, (7,) * len(losses)))
        assert (same.value, same.low, same.high, same.p_value) == (0, 0, 0, 1)
        assert not same.stands_out

    @settings(max_examples=40, deadline=None)
    @given(pairs(LOSS))
    def test_a_model_that_is_worse_everywhere_is_worse(self, found: list[tuple[float, float]]) -> None:
        before = tuple(loss for loss, _ in found)
        after = tuple(first + second for first, second in found)
        one = of(paired_perplexity(before, after, (7,) * len(before)))
        assert one.low > 0
        assert one.p_value == pytest.approx(2 / 2 ** len(found), abs=0.01)

    @given(st.integers(0, MIN_UNITS - 1))
    def test_a_handful_says_nothing(self, units: int) -> None:
        values = (1.0,) * units
        if units:
            assert paired_mean([Stratum(1.0, values, values)]) is None
        assert paired_perplexity(values, values, (7,) * units) is None


def flips(count: int) -> list[tuple[int, ...]]:
    return list(itertools.product((-1, 1), repeat=count))


def test_a_loss_without_a_perplexity_has_no_interval() -> None:
    losses = (800.0,) * 20
    assert paired_perplexity(losses, losses, (7,) * 20) is None
