"""Every method of the union keeps its promises with every pattern; Wanda and magnitude match the loops.

A new method joins these tests by joining the union.
"""

import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from pydantic import TypeAdapter, ValidationError

from pipeline.errors import InvalidSpec, NumericalError
from pipeline.methods import Learned, Method, OneShot
from pipeline.methods.base import MethodBase, OneShotMethod, RankingMethod
from pipeline.methods.composed import AdmmUpdate, Composed, ObsUpdate
from pipeline.methods.dsnot import Dsnot
from pipeline.methods.learned import LearnedMethod
from pipeline.methods.magnitude import Magnitude
from pipeline.methods.ranking import Ranking
from pipeline.methods.ria import Ria
from pipeline.methods.single import Single
from pipeline.methods.sparsegpt import SparseGPT
from pipeline.methods.wanda import Wanda
from pipeline.spec.patterns import NM, Pattern, Unstructured
from pipeline.tensor.statistics import GramTree, InputShare, LinearStatistics, hessian, merge, tree_sum
from tests import oracles
from tests.unions import members

UNION: tuple[type[OneShotMethod], ...] = members(OneShot)
METHODS: list[OneShotMethod] = [
    *(kind() for kind in UNION),
    Wanda(variant=True),
    Dsnot(mask_from=Ria()),
    Composed(mask_from=Magnitude(), update=ObsUpdate()),
    Composed(mask_from=Dsnot(), update=AdmmUpdate()),
    Composed(mask_from=SparseGPT(), update=AdmmUpdate()),
]
RANKING = (*members(Ranking), Dsnot)  # leave the values of kept weights alone
PATTERNS: list[Pattern] = (
    [
        Unstructured.model_validate({"sparsity": sparsity, "comparison_group": group, "rounding": rounding})
        for sparsity in (0, 0.37, 0.5, 0.99)
        for group in (None, "row", "matrix")
        for rounding in ("exact", "floor")
    ]
    + [Unstructured(sparsity=0.37, comparison_group="column_block", column_block_size=5)]
    + [NM(keep=2, group=4), NM(keep=3, group=8), NM(keep=1, group=2)]
)
DTYPES = [torch.float32, torch.bfloat16, torch.float16]


def named(value: OneShotMethod | Pattern | torch.dtype) -> str:
    if isinstance(value, torch.dtype):
        return str(value).removeprefix("torch.")
    return "-".join(str(field) for field in value.model_dump().values())


def follows(method: OneShotMethod, pattern: Pattern) -> bool:
    try:
        method.check(pattern)
    except InvalidSpec:
        return False
    return True


PAIRS = [(method, pattern) for method in METHODS for pattern in PATTERNS if follows(method, pattern)]


def example(dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, LinearStatistics]:
    generator = torch.Generator().manual_seed(0)
    weight_OI = torch.randn(12, 16, generator=generator).to(dtype)
    x_TI = torch.randn(20, 16, generator=generator) + torch.linspace(-1, 1, 16)
    return weight_OI, measured([x_TI])


def measured(samples: Sequence[torch.Tensor]) -> LinearStatistics:
    """Everything that any method asks for."""
    features = samples[0].shape[1]
    share = InputShare.empty(len(samples), features, ("input_norm", "input_mean"))
    tree = GramTree(features, leaf=1, first=0, device=torch.device("cpu"))
    for i, x_TI in enumerate(samples):
        share.record(i, x_TI)
        tree.add(x_TI)
    return replace(merge([share]), hessian_II=hessian(tree_sum([tree.parts()]), samples=len(samples)))


@pytest.mark.parametrize("dtype", DTYPES, ids=named)
@pytest.mark.parametrize(("method", "pattern"), PAIRS, ids=named)
def test_contract(method: OneShotMethod, pattern: Pattern, dtype: torch.dtype) -> None:
    weight_OI, statistics = example(dtype)
    before_OI = weight_OI.clone()
    keep_OI, new_OI, _ = method.choose(weight_OI, statistics if method.needs else None, pattern)

    assert weight_OI.equal(before_OI), "the given weight is left alone"
    assert (keep_OI.dtype, keep_OI.shape) == (torch.bool, weight_OI.shape)
    assert (new_OI.dtype, new_OI.shape) == (weight_OI.dtype, weight_OI.shape)
    assert (new_OI[~keep_OI] == 0).all()
    if pattern.rounding == "exact":
        assert int((~keep_OI).sum()) == round(weight_OI.numel() * pattern.target)
    if pattern.target == 0:
        assert keep_OI.all()
        assert new_OI.equal(weight_OI)
    again_OI, new_again_OI, _ = method.choose(weight_OI, statistics, pattern)
    assert again_OI.equal(keep_OI)
    assert new_again_OI.equal(new_OI)


@pytest.mark.parametrize("dtype", DTYPES, ids=named)
@pytest.mark.parametrize(
    ("method", "pattern"), [pair for pair in PAIRS if isinstance(pair[0], RANKING)], ids=named
)
def test_methods_that_rank_leave_kept_weights_to_the_bit(
    method: OneShotMethod, pattern: Pattern, dtype: torch.dtype
) -> None:
    weight_OI, statistics = example(dtype)
    keep_OI, new_OI, _ = method.choose(weight_OI, statistics, pattern)
    bits = torch.int32 if dtype == torch.float32 else torch.int16
    assert new_OI.view(bits)[keep_OI].equal(weight_OI.view(bits)[keep_OI])


def oracle_keep_column_blocks(saliency: np.ndarray, pattern: Unstructured) -> np.ndarray:
    """Each block of columns is a matrix of its own; rounded counts are those of all columns up to its end."""
    keep = np.ones(saliency.shape, dtype=bool)
    rows, columns = saliency.shape
    for first in range(0, columns, pattern.column_block_size):
        end = min(first + pattern.column_block_size, columns)
        block = saliency[:, first:end]
        if pattern.rounding == "floor":
            keep[:, first:end] = oracles.keep_matrix_floor(block, pattern.sparsity)
            continue
        count = round(rows * end * pattern.sparsity) - round(rows * first * pattern.sparsity)
        places = sorted((value, i) for i, value in enumerate(block.reshape(-1).tolist()))
        for _, i in places[:count]:
            keep[i // block.shape[1], first + i % block.shape[1]] = False
    return keep


def oracle_keep(method: OneShotMethod, saliency: np.ndarray, pattern: Pattern) -> np.ndarray:
    if isinstance(pattern, NM):
        return oracles.keep_nm(saliency, pattern.keep, pattern.group)
    if isinstance(method, Wanda) and method.variant:
        variant = {"exact": oracles.keep_wanda_variant_exact, "floor": oracles.keep_wanda_variant_floor}
        return variant[pattern.rounding](saliency, pattern.sparsity)
    group = pattern.comparison_group or {"magnitude": "matrix", "wanda": "row"}[method.model_dump()["kind"]]
    if group == "column_block":
        return oracle_keep_column_blocks(saliency, pattern)
    oracle = {
        ("row", "exact"): oracles.keep_rows_exact,
        ("row", "floor"): oracles.keep_rows_floor,
        ("matrix", "exact"): oracles.keep_matrix_exact,
        ("matrix", "floor"): oracles.keep_matrix_floor,
    }[group, pattern.rounding]
    return oracle(saliency, pattern.sparsity)


@given(data=st.data())
def test_magnitude_and_wanda_keep_what_the_loops_keep(data: st.DataObject) -> None:
    method, pattern = data.draw(
        st.sampled_from([pair for pair in PAIRS if isinstance(pair[0], Magnitude | Wanda)])
    )
    shape = data.draw(st.sampled_from([(1, 8), (3, 8), (4, 16)]))
    values = st.sampled_from([-1.0, -0.5, 0.0, 0.5, 1.0]) | st.floats(-100, 100, width=16)
    weight = data.draw(npst.arrays(np.float32, shape, elements=values))
    samples = [
        data.draw(npst.arrays(np.float32, (tokens, shape[1]), elements=st.integers(-8, 8).map(float)))
        for tokens in (1, 3)
    ]

    statistics = measured([torch.from_numpy(sample) for sample in samples])
    norm = oracles.input_norm(samples)
    np.testing.assert_allclose(statistics.input_norm_I.numpy(), norm, rtol=1e-6)
    saliency = oracles.wanda_saliency(weight, norm) if method.needs else oracles.magnitude_saliency(weight)
    given_statistics = statistics if method.needs else None
    weight_OI = torch.from_numpy(weight)
    np.testing.assert_array_equal(method.saliency(weight_OI, given_statistics).numpy(), saliency)

    keep_OI, new_OI, _ = method.choose(weight_OI, given_statistics, pattern)
    expected = oracle_keep(method, saliency, pattern)
    np.testing.assert_array_equal(keep_OI.numpy(), expected)
    np.testing.assert_array_equal(new_OI.numpy(), np.where(expected, weight, 0))


@pytest.mark.parametrize("dtype", DTYPES, ids=named)
@pytest.mark.parametrize("method", METHODS, ids=named)
def test_saliencies_are_float32_and_weights_that_are_not_finite_are_refused(
    method: OneShotMethod, dtype: torch.dtype
) -> None:
    weight_OI, statistics = example(dtype)
    weight_OI[3, 4] = float("nan")
    if isinstance(method, RankingMethod):
        assert method.saliency(weight_OI, statistics).dtype == torch.float32
    with pytest.raises(NumericalError, match="not finite"):
        method.choose(weight_OI, statistics, Unstructured(sparsity=0.5))


@pytest.mark.parametrize(
    ("pattern", "got"),
    [
        (NM(keep=2, group=4), r"NM\(2,4\)"),
        (Unstructured(sparsity=0.5, comparison_group="matrix"), "comparison_group=matrix"),
    ],
)
def test_the_variant_refuses_patterns_that_say_who_competes(pattern: Pattern, got: str) -> None:
    with pytest.raises(InvalidSpec, match=got) as caught:
        Wanda(variant=True).check(pattern)
    assert caught.value.param == "spec.prune.method.variant"
    with pytest.raises(InvalidSpec):
        Wanda(variant=True).choose(*example(), pattern)
    Wanda().check(pattern)


def test_each_union_contains_the_one_before_it_and_is_of_its_kind() -> None:
    unions = [members(union) for union in (Ranking, Single, OneShot, Method)]
    assert all(set(inner) < set(outer) for inner, outer in pairwise(unions))
    for union, kind in zip(unions, (RankingMethod, OneShotMethod, OneShotMethod, MethodBase), strict=True):
        assert all(issubclass(one, kind) for one in union)
    assert {one for one in members(Method) if issubclass(one, LearnedMethod)} == set(members(Learned))


def test_the_union_is_told_apart_by_kind() -> None:
    adapter: TypeAdapter[Method] = TypeAdapter(Method)
    for kind in UNION:
        assert adapter.validate_python(kind().model_dump()) == kind()
    assert adapter.validate_python({"kind": "wanda", "variant": True}) == Wanda(variant=True)
    with pytest.raises(ValidationError, match="wanda"):
        adapter.validate_python({"kind": "wonda"})
    with pytest.raises(ValidationError, match="variant"):
        adapter.validate_python({"kind": "magnitude", "variant": True})


def test_the_spec_needs_no_torch() -> None:
    modules = (
        "pipeline.methods, pipeline.allocations, pipeline.spec.sparsity_plan, pipeline.request.prune_spec"
    )
    code = f"import sys, {modules}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
