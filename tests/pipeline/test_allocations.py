"""Allocations: the mean of the blocks is what was asked, and OWL's plans are the published ones.

A new allocation joins the contract by joining the union (with an example here if it has required fields).
"""

import math
import re
from typing import get_args

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from pipeline.allocations import Allocation
from pipeline.allocations.base import AllocationBase
from pipeline.allocations.explicit import Explicit
from pipeline.allocations.owl import Owl
from pipeline.allocations.uniform import Uniform
from pipeline.errors import InfeasiblePlan, InvalidSpec, NumericalError
from pipeline.patterns import NM, Pattern, Unstructured
from tests import oracles

BLOCKS = 4
RATIOS = (1.0, 1.5, 2.5, 3.0)
EXAMPLES: dict[type[AllocationBase], AllocationBase] = {Explicit: Explicit(sparsity=(0.25, 0.75, 0.5, 0.5))}
UNION: tuple[type[AllocationBase], ...] = get_args(get_args(Allocation)[0])
PATTERNS: list[Pattern] = [
    Unstructured(sparsity=0.5, comparison_group="matrix", rounding="floor"),
    NM(keep=2, group=4),
    NM(keep=4, group=8),
]

ratio_lists = st.lists(st.integers(0, 400).map(lambda n: n / 37), min_size=2, max_size=40)


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("kind", UNION)
def test_contract(kind: type[AllocationBase], pattern: Pattern) -> None:
    allocation = EXAMPLES.get(kind) or kind()
    allocation.check(pattern, blocks=BLOCKS)
    allocation.check(pattern, blocks=None)
    measured = RATIOS if allocation.outlier_multiplier is not None else ()
    plan = allocation.plan(pattern, blocks=BLOCKS, outlier_ratios=measured)
    assert plan.asked == pattern.target
    assert len(plan.blocks) == BLOCKS
    assert plan.mean_sparsity == pytest.approx(pattern.target, abs=1e-12)
    for block in plan.blocks:
        changed = {"sparsity"} if isinstance(pattern, Unstructured) else {"keep"}
        assert block.model_dump(exclude=changed) == pattern.model_dump(exclude=changed)


def test_the_union_is_told_apart_by_kind() -> None:
    adapter: TypeAdapter[Allocation] = TypeAdapter(Allocation)
    assert adapter.validate_python({"kind": "owl", "spread": 0.1}) == Owl(spread=0.1)
    with pytest.raises(ValidationError, match="uniform"):
        adapter.validate_python({"kind": "equal"})


def test_uniform_gives_every_block_the_pattern_itself() -> None:
    pattern = Unstructured(sparsity=0.7)
    assert Uniform().plan(pattern, blocks=3, outlier_ratios=()).blocks == (pattern,) * 3


@given(ratios=ratio_lists, sparsity=st.floats(0, 0.99), spread=st.floats(0, 0.499, allow_subnormal=False))
def test_owl_is_the_published_formula_or_refuses_with_the_spread_that_fits(
    ratios: list[float], sparsity: float, spread: float
) -> None:
    assume(min(ratios) < max(ratios))
    expected = oracles.owl_sparsity(ratios, sparsity, spread)
    assume(all(abs(value) > 1e-9 and abs(value - 1) > 1e-9 for value in expected))
    pattern, blocks, measured = Unstructured(sparsity=sparsity), len(ratios), tuple(ratios)
    if all(0 <= value < 1 for value in expected):
        plan = Owl(spread=spread).plan(pattern, blocks=blocks, outlier_ratios=measured)
        assert plan.sparsity == pytest.approx(expected, rel=0, abs=1e-9)
        assert plan.mean_sparsity == pytest.approx(sparsity, rel=0, abs=1e-12)
        assert plan.notes == ()
        return
    with pytest.raises(InfeasiblePlan) as caught:
        Owl(spread=spread).plan(pattern, blocks=blocks, outlier_ratios=measured)
    assert caught.value.param == "spec.prune.allocation.spread"
    text = re.fullmatch(
        r"allocation\.spread=(\S+) gives block (\d+) sparsity (\S+) \(must be (?:< 1|at least 0)\); "
        r"lower spread (?:below (\d\.\d{6})|to (\d\.\d{6}) or less)",
        caught.value.message,
    )
    assert text is not None, caught.value.message
    value = expected[int(text[2])]
    assert not 0 <= value < 1
    assert float(text[3]) == pytest.approx(value, rel=1e-3)
    limit = float(text[4] or text[5])
    Owl(spread=max(0.0, limit - 1e-9)).plan(pattern, blocks=blocks, outlier_ratios=measured)
    with pytest.raises(InfeasiblePlan):
        Owl(spread=limit + 2e-6).plan(pattern, blocks=blocks, outlier_ratios=measured)


@pytest.mark.parametrize(
    ("sparsity", "spread", "ratios", "message"),
    [
        (
            0.7,
            0.4,
            (3.0, 3.0, 3.0, 1.0),
            "spread=0.4 gives block 3 sparsity 1.3 (must be < 1); lower spread below 0.200000",
        ),
        (
            0.3,
            0.4,
            (1.0, 3.0),
            "spread=0.4 gives block 1 sparsity -0.1 (must be at least 0); lower spread to 0.300000 or less",
        ),
    ],
)
def test_owl_says_which_spread_fits(
    sparsity: float, spread: float, ratios: tuple[float, ...], message: str
) -> None:
    with pytest.raises(InfeasiblePlan, match=re.escape(message)):
        Owl(spread=spread).plan(Unstructured(sparsity=sparsity), blocks=len(ratios), outlier_ratios=ratios)


def test_owl_reaches_sparsity_0_at_the_largest_spread() -> None:
    plan = Owl(spread=0.3).plan(Unstructured(sparsity=0.3), blocks=2, outlier_ratios=(1.0, 3.0))
    assert plan.sparsity == pytest.approx((0.6, 0.0), abs=1e-12)
    assert min(plan.sparsity) >= 0


nm_cases = st.integers(2, 16).flatmap(lambda group: st.tuples(st.integers(1, group - 1), st.just(group)))


@given(ratios=ratio_lists, pattern=nm_cases, spread=st.integers(0, 40).map(lambda n: n / 8))
def test_owl_for_nm_is_the_published_rounding_or_meets_the_mean(
    ratios: list[float], pattern: tuple[int, int], spread: float
) -> None:
    assume(min(ratios) < max(ratios))
    keep, group = pattern
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
                owl.plan(asked, blocks=len(ratios), outlier_ratios=tuple(ratios))
            assert caught.value.param == "spec.prune.allocation.nm_spread"
            fits = re.search(r"(\d+\.\d{6}) or less always fits", caught.value.message)
            assert fits is not None
            owl = Owl(nm_spread=float(fits[1]))
            owl.plan(asked, blocks=len(ratios), outlier_ratios=tuple(ratios))
            continue
        plan = owl.plan(asked, blocks=len(ratios), outlier_ratios=tuple(ratios))
        assert [group - block.keep for block in plan.blocks if isinstance(block, NM)] == zeros
        if rounding == "exact":
            assert plan.mean_sparsity == pytest.approx(asked.target, abs=1e-12)
        missed = sum(zeros) != (group - keep) * len(ratios)
        assert bool(plan.notes) == missed


def test_published_rounding_that_misses_the_mean_is_noted() -> None:
    ratios = (0.0, 0.0, 0.0, 10.0)  # shifts -0.5, -0.5, -0.5, 1.5: half to even gives 0, 0, 0, 2
    floor = Owl(nm_spread=2).plan(NM(keep=3, group=8, rounding="floor"), blocks=4, outlier_ratios=ratios)
    assert [block.keep for block in floor.blocks if isinstance(block, NM)] == [3, 3, 3, 5]
    assert "mean sparsity 0.5625, asked 0.625" in floor.notes[0]
    exact = Owl(nm_spread=2).plan(NM(keep=3, group=8), blocks=4, outlier_ratios=ratios)
    assert [block.keep for block in exact.blocks if isinstance(block, NM)] == [3, 3, 2, 4]
    assert exact.notes == ()


@pytest.mark.parametrize("pattern", PATTERNS)
def test_equal_outlier_ratios_give_the_uniform_plan_and_a_note(pattern: Pattern) -> None:
    plan = Owl().plan(pattern, blocks=3, outlier_ratios=(2.5, 2.5, 2.5))
    assert plan.blocks == (pattern,) * 3
    assert "2.5 %" in plan.notes[0]
    assert "uniform" in plan.notes[0]
    assert Owl().plan(pattern, blocks=1, outlier_ratios=(2.5,)).blocks == (pattern,)


def test_owl_refuses_ratios_that_do_not_fit_the_model() -> None:
    with pytest.raises(InvalidSpec, match="3 outlier ratios for 4 blocks"):
        Owl().plan(Unstructured(sparsity=0.5), blocks=4, outlier_ratios=(1.0, 2.0, 3.0))
    with pytest.raises(NumericalError, match="not finite"):
        Owl().plan(Unstructured(sparsity=0.5), blocks=2, outlier_ratios=(1.0, math.nan))


@pytest.mark.parametrize("field", ["multiplier", "spread", "nm_spread"])
@pytest.mark.parametrize("value", [-1.0, math.nan, math.inf])
def test_owl_parameters_are_finite_and_not_negative(field: str, value: float) -> None:
    with pytest.raises(ValidationError):
        Owl.model_validate({field: value})


@pytest.mark.parametrize(
    ("values", "pattern", "message"),
    [
        ((0.5, 0.5), Unstructured(sparsity=0.5), "got 2 values, the model has 3 blocks"),
        ((0.5, 0.5, 0.6), Unstructured(sparsity=0.5), "mean 0.533333, the pattern asks for 0.5"),
        ((0.4, 0.5, 0.6), NM(keep=2, group=4), "block 0: sparsity 0.4 is no whole number of zeros of 4"),
        ((0.0, 0.75, 0.75), NM(keep=2, group=4), "block 0: sparsity 0.0"),
    ],
)
def test_explicit_values_must_fit(values: tuple[float, ...], pattern: Pattern, message: str) -> None:
    with pytest.raises(InvalidSpec, match=re.escape(message)) as caught:
        Explicit(sparsity=values).check(pattern, blocks=3)
    assert caught.value.param == "spec.prune.allocation.sparsity"
    with pytest.raises(InvalidSpec):
        Explicit(sparsity=values).plan(pattern, blocks=3, outlier_ratios=())


def test_explicit_values_become_the_plan() -> None:
    plan = Explicit(sparsity=(0.25, 0.75)).plan(NM(keep=4, group=8), blocks=2, outlier_ratios=())
    assert plan.blocks == (NM(keep=6, group=8), NM(keep=2, group=8))
    unstructured = Explicit(sparsity=(0.2, 0.8)).plan(Unstructured(sparsity=0.5), blocks=2, outlier_ratios=())
    assert unstructured.sparsity == (0.2, 0.8)
