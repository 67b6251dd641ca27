"""Allocations: the model's zeros are what was asked, to the weight, and the plans are the published ones.

A new allocation joins the contract by joining the union (with an example here if it has required fields).
"""

import math
import re

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
from pipeline.errors import InvalidSpec, NumericalError
from pipeline.spec.patterns import NM, Pattern, Unstructured
from tests.pipeline.allocations.made_weights import measured_lists, share, weights_of
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
