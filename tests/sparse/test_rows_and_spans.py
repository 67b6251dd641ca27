"""Kernels that take several rows at once for one token, or several blocks of a row at once for many."""

import pytest
import torch

from secateur.sparse import SparseLinear, operators, pack
from secateur.sparse.dense import DenseLinear
from tests.sparse.weights import TYPES, Case, exact


@pytest.mark.parametrize("dtype", TYPES)
def test_rows_at_once_give_the_sums_of_single_rows(dtype: torch.dtype) -> None:
    """11 rows on one thread are two fours and three single ones; on two threads others are together."""
    case = Case(rows=11, columns=320, tokens=1, density=0.3, seed=2)
    weight, x = case.weight(), case.x()
    packed = pack(weight, values=dtype)
    expected, allowed = exact(x, packed.dense())
    for linear in (SparseLinear.of(packed), DenseLinear.of(weight, values=dtype)):
        made, before = linear(x), torch.get_num_threads()
        assert bool(((made - expected).abs() <= allowed).all())
        for threads in (2, 3, 11):
            try:
                torch.set_num_threads(threads)
                assert torch.equal(linear(x), made)
            finally:
                torch.set_num_threads(before)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("columns", [4480, 4500])
def test_few_values_of_wide_rows(dtype: torch.dtype, columns: int) -> None:
    """The last visit to a row has fewer blocks than the others, and the last block fewer columns."""
    case = Case(rows=20, columns=columns, tokens=50, density=0.1, seed=4)
    weight = case.weight()
    weight[1, 64:] = 0  # no full row: it alone would have many values
    packed = pack(weight, values=dtype)
    linear = SparseLinear.of(packed)
    parts = (linear._bits, linear._values, linear._starts, linear._scales, linear._group)
    expected, allowed = exact(case.x(), packed.dense())
    made = operators.linear(case.x(), *parts, "many")
    assert bool(((made - expected).abs() <= allowed).all())
