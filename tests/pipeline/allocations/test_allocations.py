"""Allocations: the model's zeros are what was asked, to the weight, and the plans are the published ones.

A new allocation joins the contract by joining the union (with an example here if it has required fields).
"""

import math
import re
from collections.abc import Sequence

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from pipeline.allocations import Allocation, AlphaPruning, Atp, Candidate, Dlp, Tournament
from pipeline.allocations.base import CandidateAllocation
from pipeline.allocations.explicit import Explicit
from pipeline.allocations.levels import DENSITY_LEFT
from pipeline.allocations.owl import Owl
from pipeline.allocations.uniform import Uniform
from pipeline.errors import InfeasiblePlan, InvalidSpec, NumericalError
from pipeline.spec.patterns import NM, Pattern, Unstructured
from pipeline.spec.sparsity_plan import SparsityPlan, Weights
from tests import oracles
from tests.unions import members

BLOCKS = 4
MEASURED = (1.0, 1.5, 2.5, 3.0)
EXAMPLES: dict[type[CandidateAllocation], CandidateAllocation] = {
    Explicit: Explicit(sparsity=(0.25, 0.75, 0.5, 0.5))
}
UNION: tuple[type[CandidateAllocation], ...] = members(Candidate)
MEASURING = tuple(kind for kind in UNION if kind not in EXAMPLES and kind().measure is not None)
PATTERNS: list[Pattern] = [
    Unstructured(sparsity=0.5, comparison_group="matrix"),
    Unstructured(sparsity=0.5, comparison_group="matrix", rounding="floor"),
    NM(keep=2, group=4),
    NM(keep=4, group=8),
]

measured_lists = st.lists(st.integers(1, 400).map(lambda n: n / 37), min_size=2, max_size=40)


def weights_of(blocks: int, *, sizes: Sequence[int] = (96, 31, 17)) -> Weights:
    """Blocks with linears of odd sizes."""
    return [{f"linear{i}": size for i, size in enumerate(sizes)} for _ in range(blocks)]


def share(plan: SparsityPlan, weights: Weights) -> float:
    """Zeros of the model over its weights."""
    return sum(sum(block.values()) for block in plan.zeros) / sum(sum(block.values()) for block in weights)


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("kind", UNION)
def test_contract(kind: type[CandidateAllocation], pattern: Pattern) -> None:
    allocation = EXAMPLES.get(kind) or kind()
    weights = weights_of(BLOCKS)
    allocation.check(pattern, blocks=BLOCKS)
    allocation.check(pattern, blocks=None)
    measured = MEASURED if allocation.measure is not None else ()
    plan = allocation.plan(pattern, weights, measured=measured)
    assert plan.asked == pattern.target
    assert len(plan.blocks) == BLOCKS
    assert plan.mean_sparsity == pytest.approx(pattern.target, abs=1e-12)
    for block in plan.blocks:
        changed = {"sparsity"} if isinstance(pattern, Unstructured) else {"keep"}
        assert block.model_dump(exclude=changed) == pattern.model_dump(exclude=changed)
    if isinstance(pattern, Unstructured) and pattern.rounding == "exact":
        assert sum(sum(block.values()) for block in plan.zeros) == round(0.5 * 144 * BLOCKS)
        assert [block.keys() for block in plan.zeros] == [block.keys() for block in weights]
    else:
        assert plan.zeros == ()


@pytest.mark.parametrize("kind", MEASURING)
@given(
    measured=measured_lists,
    sparsity=st.floats(0, 0.99),
    sizes=st.lists(st.integers(1, 300), min_size=1, max_size=4),
)
def test_the_budget_is_met_to_the_weight_whatever_was_measured(
    kind: type[CandidateAllocation], measured: list[float], sparsity: float, sizes: list[int]
) -> None:
    weights = weights_of(len(measured), sizes=sizes)
    plan = kind().plan(Unstructured(sparsity=sparsity), weights, measured=tuple(measured))
    assert sum(sum(block.values()) for block in plan.zeros) == round(sparsity * (sum(sizes) * len(measured)))
    for zeros, block in zip(plan.zeros, weights, strict=True):
        assert all(0 <= zeros[name] <= count for name, count in block.items())
    highest = 1 - (1 - sparsity) * DENSITY_LEFT
    assert all(0 <= value <= highest for value in plan.sparsity)
    assert bool(plan.wanted) == any("clamped" in note for note in plan.notes)


def test_the_union_is_told_apart_by_kind() -> None:
    adapter: TypeAdapter[Allocation] = TypeAdapter(Allocation)
    assert adapter.validate_python({"kind": "owl", "spread": 0.1}) == Owl(spread=0.1)
    with pytest.raises(ValidationError, match="uniform"):
        adapter.validate_python({"kind": "equal"})


def test_uniform_gives_every_block_the_pattern_itself() -> None:
    pattern = Unstructured(sparsity=0.7)
    plan = Uniform().plan(pattern, weights_of(3))
    assert plan.blocks == (pattern,) * 3
    assert share(plan, weights_of(3)) == pytest.approx(0.7, abs=0.5 / 432)


def test_pattern_of_a_linear_has_its_own_count() -> None:
    plan = Uniform().plan(Unstructured(sparsity=0.5), weights_of(2))
    assert [plan.zeros[0][f"linear{i}"] for i in range(3)] == [48, 16, 8]
    assert plan.pattern(0, "linear1", weights=31).target == pytest.approx(16 / 31)
    nm = Uniform().plan(NM(keep=2, group=4), weights_of(2))
    assert nm.pattern(1, "linear1", weights=31) == NM(keep=2, group=4)


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


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("kind", MEASURING)
def test_equal_measurements_give_the_uniform_plan_and_a_note(
    kind: type[CandidateAllocation], pattern: Pattern
) -> None:
    plan = kind().plan(pattern, weights_of(3), measured=(2.5, 2.5, 2.5))
    assert [block.target for block in plan.blocks] == pytest.approx([pattern.target] * 3, abs=1e-12)
    assert "uniform" in plan.notes[0]
    alone = kind().plan(pattern, weights_of(1), measured=(2.5,))
    assert alone.sparsity == pytest.approx((pattern.target,), abs=1e-12)


@pytest.mark.parametrize("kind", MEASURING)
def test_measurements_that_do_not_fit_the_model_are_refused(kind: type[CandidateAllocation]) -> None:
    with pytest.raises(InvalidSpec, match=r"3 .* where 4 are needed"):
        kind().plan(Unstructured(sparsity=0.5), weights_of(4), measured=(1.0, 2.0, 3.0))
    for bad in (math.nan, math.inf):
        with pytest.raises(NumericalError, match="not finite"):
            kind().plan(Unstructured(sparsity=0.5), weights_of(2), measured=(1.0, bad))


@pytest.mark.parametrize("field", ["multiplier", "spread", "nm_spread"])
@pytest.mark.parametrize("value", [-1.0, math.nan, math.inf])
def test_owl_parameters_are_finite_and_not_negative(field: str, value: float) -> None:
    with pytest.raises(ValidationError):
        Owl.model_validate({field: value})


@given(blocks=st.integers(2, 60), sparsity=st.floats(0.02, 0.98), part=st.floats(0, 1))
def test_atp_is_the_published_progression(blocks: int, sparsity: float, part: float) -> None:
    step = part * 2 * min(sparsity, 1 - sparsity) / (blocks - 1) * (1 - 1e-9)
    plan = Atp(step=step).plan(Unstructured(sparsity=sparsity), weights_of(blocks))
    published = [sparsity - step * (blocks - 1) / 2 + step * block for block in range(blocks)]
    if not plan.wanted:
        assert plan.sparsity == pytest.approx(published, abs=1e-9)
    assert plan.mean_sparsity == pytest.approx(sparsity, abs=1e-9)


def test_atp_refuses_a_step_that_leaves_the_range_and_names_the_largest() -> None:
    with pytest.raises(InvalidSpec, match=r"lower it to 0\.200000 or less") as caught:
        Atp(step=0.21).check(Unstructured(sparsity=0.7), blocks=4)
    assert caught.value.param == "spec.prune.allocation.step"
    Atp(step=0.2).check(Unstructured(sparsity=0.7), blocks=4)


def test_atp_moves_kept_weights_of_nm() -> None:
    plan = Atp(step=0.125).plan(NM(keep=4, group=8), weights_of(3))
    assert [block.keep for block in plan.blocks if isinstance(block, NM)] == [5, 4, 3]


@given(alphas=measured_lists, sparsity=st.floats(0.01, 0.7))
def test_alpha_pruning_is_the_published_scaling(alphas: list[float], sparsity: float) -> None:
    assume(min(alphas) < max(alphas))
    plan = AlphaPruning().plan(
        Unstructured(sparsity=sparsity), weights_of(len(alphas)), measured=tuple(alphas)
    )
    low, high = min(alphas), max(alphas)
    scale = [(alpha - low) / (high - low) * 0.6 + 0.7 for alpha in alphas]
    published = [sparsity * one * len(alphas) / sum(scale) for one in scale]
    if not plan.wanted:
        assert plan.sparsity == pytest.approx(published, abs=1e-9)


@given(medians=measured_lists, sparsity=st.floats(0.2, 0.8))
def test_dlp_keeps_more_where_the_median_saliency_is_small(medians: list[float], sparsity: float) -> None:
    assume(min(medians) < max(medians))
    plan = Dlp().plan(Unstructured(sparsity=sparsity), weights_of(len(medians)), measured=tuple(medians))
    importance = [1 - one / sum(medians) for one in medians]
    low, high = min(importance), max(importance)
    density = [(one - low) / (high - low) * 0.3 for one in importance]
    published = [1 - (one - sum(density) / len(density) + 1 - sparsity) for one in density]
    if not plan.wanted:
        assert plan.sparsity == pytest.approx(published, abs=1e-6)  # medians close to each other lose digits
    order = sorted(range(len(medians)), key=lambda i: medians[i])
    assert plan.sparsity[order[0]] <= plan.sparsity[order[-1]]


def test_dlp_of_a_model_of_zeros_is_refused() -> None:
    with pytest.raises(NumericalError, match="no weights to tell apart"):
        Dlp().plan(Unstructured(sparsity=0.5), weights_of(2), measured=(0.0, 0.0))


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
        Explicit(sparsity=values).plan(pattern, weights_of(3))


def test_explicit_values_become_the_plan() -> None:
    plan = Explicit(sparsity=(0.25, 0.75)).plan(NM(keep=4, group=8), weights_of(2))
    assert plan.blocks == (NM(keep=6, group=8), NM(keep=2, group=8))
    unstructured = Explicit(sparsity=(0.2, 0.8)).plan(Unstructured(sparsity=0.5), weights_of(2))
    assert unstructured.sparsity == (0.2, 0.8)
    assert share(unstructured, weights_of(2)) == 0.5


def test_a_tournament_has_uniform_in_it_and_every_entrant_once() -> None:
    tournament = Tournament(candidates=(Owl(), Dlp(), Uniform(), Owl(), Owl(spread=0.1)))
    assert tournament.entrants == (Uniform(), Owl(), Dlp(), Owl(spread=0.1))
    assert [measure.kind for measure in tournament.measures] == ["outlier_ratio", "saliency_median"]
    with pytest.raises(InvalidSpec, match="step="):
        Tournament(candidates=(Owl(), Atp(step=0.4))).check(Unstructured(sparsity=0.5), blocks=12)
    with pytest.raises(ValidationError, match="tournament"):
        Tournament.model_validate({"candidates": [{"kind": "tournament", "candidates": [{"kind": "owl"}]}]})
