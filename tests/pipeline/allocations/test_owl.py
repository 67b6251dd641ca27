"""OWL is the published one where that is feasible; elsewhere the mean is met, or the plan says so."""

import math
import re

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from pydantic import ValidationError

from pipeline.allocations.levels import DENSITY_LEFT
from pipeline.allocations.owl import Owl
from pipeline.errors import InfeasiblePlan, InvalidSpec
from pipeline.spec.patterns import NM, Unstructured
from tests import oracles
from tests.pipeline.allocations.made_weights import measured_lists, weights_of


@given(ratios=measured_lists, sparsity=st.floats(0, 0.99), spread=st.floats(0, 0.499, allow_subnormal=False))
def test_owl_is_the_published_formula_wherever_that_is_feasible(
    ratios: list[float], sparsity: float, spread: float
) -> None:
    assume(min(ratios) < max(ratios))
    expected = oracles.owl_sparsity(ratios, sparsity, spread)
    highest = 1 - (1 - sparsity) * DENSITY_LEFT
    assume(all(abs(value) > 1e-9 and abs(value - highest) > 1e-9 for value in expected))
    weights = weights_of(len(ratios))
    plan = Owl(spread=spread).plan(Unstructured(sparsity=sparsity), weights, measured=tuple(ratios))
    if all(0 <= value <= highest for value in expected):
        assert plan.sparsity == pytest.approx(expected, rel=0, abs=1e-9)
        assert plan.notes == ()
        return
    assert plan.wanted == pytest.approx(expected, rel=0, abs=1e-9)
    assert plan.mean_sparsity == pytest.approx(sparsity, rel=0, abs=1e-9)
    inside = [i for i, value in enumerate(plan.sparsity) if 0 < value < highest]
    shifts = {round(plan.sparsity[i] - expected[i], 9) for i in inside}
    assert len(shifts) <= 1, "the others are moved by one shift"


def test_owl_says_how_many_blocks_were_clamped() -> None:
    plan = Owl(spread=0.4).plan(Unstructured(sparsity=0.3), weights_of(2), measured=(1.0, 3.0))
    assert plan.sparsity == pytest.approx((0.6, 0.0), abs=1e-12)
    assert plan.wanted == pytest.approx((0.7, -0.1), abs=1e-12)
    assert plan.notes == (
        "the allocation wants sparsities from -0.1 to 0.7; 1 of 2 blocks were clamped to 0 to 0.93, "
        "the others make up for it",
    )


def test_published_clamping_misses_the_mean_and_says_so() -> None:
    pattern = Unstructured(sparsity=0.3, rounding="floor")
    plan = Owl(spread=0.4).plan(pattern, weights_of(2), measured=(1.0, 3.0))
    assert plan.sparsity == pytest.approx((0.7, 0.01), abs=1e-12)
    assert "mean sparsity 0.355, asked 0.3" in plan.notes[0]


def test_owl_by_linear_gives_every_linear_its_own_sparsity() -> None:
    weights = [{"a": 100, "b": 50}, {"a": 100, "b": 50}]
    owl = Owl(spread=0.1, scope="linear")
    plan = owl.plan(Unstructured(sparsity=0.5), weights, measured=(1.0, 2.0, 3.0, 2.0))
    assert [[zeros["a"], zeros["b"]] for zeros in plan.zeros] == [[60, 25], [40, 25]]
    assert plan.sparsity == pytest.approx((85 / 150, 65 / 150))
    with pytest.raises(InvalidSpec, match="use scope block") as caught:
        owl.check(NM(keep=2, group=4), blocks=2)
    assert caught.value.param == "spec.prune.allocation.scope"


nm_cases = st.integers(2, 16).flatmap(lambda group: st.tuples(st.integers(1, group - 1), st.just(group)))


@given(ratios=measured_lists, pattern=nm_cases, spread=st.integers(0, 40).map(lambda n: n / 8))
def test_owl_for_nm_is_the_published_rounding_or_meets_the_mean(
    ratios: list[float], pattern: tuple[int, int], spread: float
) -> None:
    assume(min(ratios) < max(ratios))
    keep, group = pattern
    weights, measured = weights_of(len(ratios)), tuple(ratios)
    shares = [(ratio - min(ratios)) / (max(ratios) - min(ratios)) * spread for ratio in ratios]
    halves = [abs((share - math.fsum(shares) / len(shares)) % 1 - 0.5) for share in shares]
    expected = {
        "exact": oracles.owl_zeros_exact(ratios, group - keep, spread),
        "floor": oracles.owl_zeros_floor(ratios, group - keep, spread),
    }
    for rounding, zeros in expected.items():
        if rounding == "floor" and min(halves) < 1e-9:
            continue  # a half up to rounding errors: either way is right
        asked = NM.model_validate({"keep": keep, "group": group, "rounding": rounding})
        owl = Owl(nm_spread=spread)
        if not all(1 <= group - z < group for z in zeros):
            with pytest.raises(InfeasiblePlan) as caught:
                owl.plan(asked, weights, measured=measured)
            assert caught.value.param == "spec.prune.allocation.nm_spread"
            fits = re.search(r"(\d+\.\d{6}) or less always fits", caught.value.message)
            assert fits is not None
            Owl(nm_spread=float(fits[1])).plan(asked, weights, measured=measured)
            continue
        plan = owl.plan(asked, weights, measured=measured)
        assert [group - block.keep for block in plan.blocks if isinstance(block, NM)] == zeros
        if rounding == "exact":
            assert plan.mean_sparsity == pytest.approx(asked.target, abs=1e-12)
        missed = sum(zeros) != (group - keep) * len(ratios)
        assert bool(plan.notes) == missed


def test_published_rounding_that_misses_the_mean_is_noted() -> None:
    ratios = (0.0, 0.0, 0.0, 10.0)  # shifts -0.5, -0.5, -0.5, 1.5: half to even gives 0, 0, 0, 2
    owl, weights = Owl(nm_spread=2), weights_of(4)
    floor = owl.plan(NM(keep=3, group=8, rounding="floor"), weights, measured=ratios)
    assert [block.keep for block in floor.blocks if isinstance(block, NM)] == [3, 3, 3, 5]
    assert "mean sparsity 0.5625, asked 0.625" in floor.notes[0]
    exact = owl.plan(NM(keep=3, group=8), weights, measured=ratios)
    assert [block.keep for block in exact.blocks if isinstance(block, NM)] == [3, 3, 2, 4]
    assert exact.notes == ()


@pytest.mark.parametrize("field", ["multiplier", "spread", "nm_spread"])
@pytest.mark.parametrize("value", [-1.0, math.nan, math.inf])
def test_owl_parameters_are_finite_and_not_negative(field: str, value: float) -> None:
    with pytest.raises(ValidationError):
        Owl.model_validate({field: value})
