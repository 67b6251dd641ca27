"""keep_by_saliency against the loops of tests/oracles: random, tied, all-zero and tiny matrices."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from pipeline.errors import InvalidSpec, NumericalError
from pipeline.spec.patterns import NM, Unstructured
from pipeline.tensor.masks import PARTITIONED, all_finite, keep_by_row_share, keep_by_saliency, zeroed
from tests import oracles

VALUES = {
    "random": st.floats(0, 1e6, width=32),
    "tied": st.sampled_from([0.0, 0.5, 1.0, 2.0]),
    "zero": st.just(0.0),
}
KEEP = {
    ("row", "exact"): oracles.keep_rows_exact,
    ("row", "floor"): oracles.keep_rows_floor,
    ("matrix", "exact"): oracles.keep_matrix_exact,
    ("matrix", "floor"): oracles.keep_matrix_floor,
}
SPARSITY = st.one_of(st.floats(0, 0.999), st.sampled_from([0.0, 0.25, 0.5, 0.7, 0.75, 1 - 2**-53]))


@st.composite
def saliencies(draw: st.DrawFn, multiple: int = 1) -> np.ndarray:
    """float32 [O, I], I divisible by `multiple`."""
    rows = draw(st.integers(1, 6))
    columns = draw(st.integers(1, max(1, 16 // multiple))) * multiple
    values = VALUES[draw(st.sampled_from(sorted(VALUES)))]
    return draw(npst.arrays(np.float32, (rows, columns), elements=values))


@pytest.mark.parametrize(("group", "rounding"), KEEP)
@given(data=st.data())
def test_unstructured_keeps_what_the_loops_keep(group: str, rounding: str, data: st.DataObject) -> None:
    saliency, sparsity = data.draw(saliencies()), data.draw(SPARSITY)
    pattern = Unstructured.model_validate(
        {"sparsity": sparsity, "comparison_group": group, "rounding": rounding}
    )
    keep = keep_by_saliency(torch.from_numpy(saliency), pattern, default_group="row")
    assert keep.dtype == torch.bool
    np.testing.assert_array_equal(keep.numpy(), KEEP[group, rounding](saliency, sparsity))
    if rounding == "exact":
        assert int((~keep).sum()) == round(saliency.size * sparsity)


@given(data=st.data(), group=st.integers(2, 16))
def test_nm_keeps_what_the_loops_keep(data: st.DataObject, group: int) -> None:
    keep_count = data.draw(st.integers(1, group - 1))
    saliency = data.draw(saliencies(multiple=group))
    keep = keep_by_saliency(torch.from_numpy(saliency), NM(keep=keep_count, group=group), default_group="row")
    np.testing.assert_array_equal(keep.numpy(), oracles.keep_nm(saliency, keep_count, group))


def test_nm_with_the_largest_group() -> None:
    saliency = torch.rand(3, 128, generator=torch.Generator().manual_seed(0)).round(decimals=1)
    keep = keep_by_saliency(saliency, NM(keep=63, group=64), default_group="row")
    np.testing.assert_array_equal(keep.numpy(), oracles.keep_nm(saliency.numpy(), 63, 64))


@given(saliency=saliencies(), sparsity=SPARSITY)
def test_the_variant_keeps_what_the_loops_keep(saliency: np.ndarray, sparsity: float) -> None:
    floor = keep_by_row_share(torch.from_numpy(saliency), Unstructured(sparsity=sparsity, rounding="floor"))
    np.testing.assert_array_equal(floor.numpy(), oracles.keep_wanda_variant_floor(saliency, sparsity))
    exact = keep_by_row_share(torch.from_numpy(saliency), Unstructured(sparsity=sparsity))
    np.testing.assert_array_equal(exact.numpy(), oracles.keep_wanda_variant_exact(saliency, sparsity))
    assert int((~exact).sum()) == round(saliency.size * sparsity)


@pytest.mark.parametrize("sparsity", [0.3, 0.5, 0.7])
def test_the_variant_ends_near_the_asked_sparsity_on_a_matrix_of_some_size(sparsity: float) -> None:
    saliency = torch.rand(64, 256, generator=torch.Generator().manual_seed(0))
    keep = keep_by_row_share(saliency, Unstructured(sparsity=sparsity, rounding="floor"))
    assert float((~keep).float().mean()) == pytest.approx(sparsity, abs=0.002)
    assert len(set((~keep).sum(dim=1).tolist())) > 1, "rows get unequal counts"


@pytest.mark.parametrize(
    ("group", "zeros"), [("row", [[1, 1, 0, 0], [1, 1, 0, 0]]), ("matrix", [[1, 1, 1, 1], [0] * 4])]
)
def test_ties_go_lowest_index_first(group: str, zeros: list[list[int]]) -> None:
    pattern = Unstructured.model_validate({"sparsity": 0.5, "comparison_group": group})
    keep = keep_by_saliency(torch.ones(2, 4), pattern, default_group="row")
    assert (~keep).int().tolist() == zeros


def test_the_remainder_goes_to_the_rows_with_the_next_smallest_saliency() -> None:
    saliency = torch.tensor([[1.0, 9.0, 9.0], [1.0, 5.0, 9.0], [1.0, 7.0, 9.0]])
    keep = keep_by_saliency(saliency, Unstructured(sparsity=5 / 9), default_group="row")
    assert (~keep).int().tolist() == [[1, 0, 0], [1, 1, 0], [1, 1, 0]]


@pytest.mark.parametrize("group", ["row", "matrix"])
@pytest.mark.parametrize("rounding", ["exact", "floor"])
def test_sparsity_0_prunes_nothing_and_the_patterns_group_wins(group: str, rounding: str) -> None:
    zeros = torch.zeros(3, 5)
    pattern = Unstructured.model_validate({"sparsity": 0, "comparison_group": group, "rounding": rounding})
    assert keep_by_saliency(zeros, pattern, default_group="row").all()
    assert keep_by_row_share(zeros, pattern).all()


def test_the_default_group_is_used_only_where_the_pattern_leaves_it_open() -> None:
    saliency = torch.arange(8.0).reshape(2, 4)
    by_row = keep_by_saliency(saliency, Unstructured(sparsity=0.5), default_group="row")
    by_matrix = keep_by_saliency(saliency, Unstructured(sparsity=0.5), default_group="matrix")
    stated = keep_by_saliency(
        saliency, Unstructured(sparsity=0.5, comparison_group="matrix"), default_group="row"
    )
    assert not by_row.equal(by_matrix)
    assert stated.equal(by_matrix)


def test_matrices_that_are_partitioned_in_pieces_keep_the_largest_of_each_row() -> None:
    rows, columns = 5, PARTITIONED // 2 - 1  # two rows a piece, one in the last
    generator = torch.Generator().manual_seed(0)
    saliency = torch.rand(rows, columns, generator=generator).round(decimals=4)  # some equal the threshold
    pattern = Unstructured(sparsity=0.3, rounding="floor")
    keep = keep_by_saliency(saliency, pattern, default_group="row")
    order = saliency.sort(dim=1, stable=True).indices
    expected = torch.ones_like(keep).scatter_(1, order[:, : int(columns * 0.3)], False)
    assert keep.equal(expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_what_is_not_kept_is_positive_zero_and_the_rest_stays_to_the_bit(dtype: torch.dtype) -> None:
    weight = torch.tensor([[-1.5, float("nan"), -0.0, float("inf")], [2.0, -3.0, -0.0, 1e-7]], dtype=dtype)
    keep = torch.tensor([[False, False, True, False], [True, True, False, True]])
    made = zeroed(weight, keep)
    assert made.dtype == dtype
    assert made[~keep].signbit().sum() == 0
    assert (made[~keep] == 0).all()
    assert made[keep].signbit().equal(weight[keep].signbit())
    assert made[keep].equal(weight[keep])
    assert zeroed(weight.t(), keep.t()).t().equal(made)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_one_value_that_is_not_finite_is_seen(value: float) -> None:
    values = torch.zeros(3, 4)
    assert all_finite(values)
    assert all_finite(values[:0])
    values[1, 2] = value
    assert not all_finite(values)


@pytest.mark.parametrize("pattern", [Unstructured(sparsity=0.5), NM(keep=2, group=4)])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_saliencies_that_are_not_finite_are_refused(pattern: Unstructured | NM, bad: float) -> None:
    saliency = torch.ones(2, 4)
    saliency[1, 2] = bad
    with pytest.raises(NumericalError, match="1 of 8 saliencies are not finite"):
        keep_by_saliency(saliency, pattern, default_group="row")
    if isinstance(pattern, Unstructured):
        with pytest.raises(NumericalError, match="1 of 8"):
            keep_by_row_share(saliency, pattern)


def test_a_group_that_does_not_divide_the_inputs_names_its_field() -> None:
    with pytest.raises(InvalidSpec, match="divisible by 4, a linear has 6; use a group of 2, 3, 6") as caught:
        keep_by_saliency(torch.ones(2, 6), NM(keep=2, group=4), default_group="row")
    assert caught.value.param == "spec.prune.pattern.group"


@pytest.mark.parametrize("pattern", [Unstructured(sparsity=0.4), NM(keep=2, group=4)])
@pytest.mark.parametrize("group", ["row", "matrix"])
def test_memory_layout_does_not_matter(pattern: Unstructured | NM, group: str) -> None:
    saliency = torch.randint(0, 4, (8, 12), generator=torch.Generator().manual_seed(0)).float()
    transposed = saliency.t().contiguous().t()  # as GPT-2 stores its weights
    keep = keep_by_saliency(saliency, pattern, default_group=group)  # type: ignore[arg-type]
    assert keep.equal(keep_by_saliency(transposed, pattern, default_group=group))  # type: ignore[arg-type]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("group", ["row", "matrix"])
@pytest.mark.parametrize("pattern", [Unstructured(sparsity=0.4), NM(keep=2, group=4)])
def test_cuda_keeps_what_the_cpu_keeps(pattern: Unstructured | NM, group: str) -> None:
    saliency = torch.randint(0, 40, (64, 96), generator=torch.Generator().manual_seed(0)).float()
    keep = keep_by_saliency(saliency, pattern, default_group=group)  # type: ignore[arg-type]
    on_gpu = keep_by_saliency(saliency.cuda(), pattern, default_group=group)  # type: ignore[arg-type]
    assert keep.equal(on_gpu.cpu())
    if isinstance(pattern, Unstructured):
        assert keep_by_row_share(saliency, pattern).equal(keep_by_row_share(saliency.cuda(), pattern).cpu())
