"""Tests of the kernels: each instruction set that this CPU has, each type, each way, against float64."""

from collections.abc import Iterator

import pytest
import torch
from hypothesis import given, settings
from torch import Tensor

from secateur.sparse import Packed, SparseLinear, operators, pack
from secateur.sparse.dense import DenseLinear
from secateur.sparse.library import SETS, WAYS, Native, native
from tests.sparse.weights import CASES, TYPES, Case, exact

SPECIAL = (float("nan"), float("inf"), -float("inf"))


@pytest.fixture(scope="module")
def library() -> Native:
    return native()


@pytest.fixture(params=SETS)
def instructions(request: pytest.FixtureRequest, library: Native) -> Iterator[str]:
    name: str = request.param
    if name not in library.sets:
        pytest.skip(f"this CPU has no {name}")
    before, library.chosen = library.chosen, name
    yield name
    library.chosen = before


def product(packed: Packed, x: Tensor, way: str) -> Tensor:
    linear = SparseLinear.of(packed)
    parts = (linear._bits, linear._values, linear._starts, linear._scales, linear._group)
    made: Tensor = torch.ops.secateur_sparse.linear(x, *parts, way)
    return made


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("dtype", TYPES)
def test_products_are_those_of_the_dense_weight(dtype: torch.dtype, way: str, instructions: str) -> None:
    @settings(max_examples=30)
    @given(CASES)
    def check(case: Case) -> None:
        packed = pack(case.weight(), values=dtype)
        x = case.x()
        expected, allowed = exact(x, packed.dense())
        assert bool(((product(packed, x, way) - expected).abs() <= allowed).all())

    check()


@pytest.mark.parametrize("dtype", TYPES)
def test_dense_products_by_the_same_kernels(dtype: torch.dtype, instructions: str) -> None:
    @settings(max_examples=15)
    @given(CASES)
    def check(case: Case) -> None:
        weight, x = case.weight(), case.x()
        linear = DenseLinear.of(weight, values=dtype)
        expected, allowed = exact(x, pack(weight, values=dtype).dense())
        assert bool(((linear(x) - expected).abs() <= allowed).all())

    check()


@pytest.mark.parametrize("tokens", [1, 5, 17, 33, 65, 130])
@pytest.mark.parametrize("way", WAYS)
def test_tiles_of_many_rows_and_tokens(tokens: int, way: str, instructions: str) -> None:
    case = Case(rows=523, columns=200, tokens=tokens, density=0.3, seed=0)
    packed = pack(case.weight())
    expected, allowed = exact(case.x(), packed.dense())
    assert bool(((product(packed, case.x(), way) - expected).abs() <= allowed).all())


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("dtype", TYPES)
def test_infinite_and_nan_inputs_give_what_torch_gives(
    dtype: torch.dtype, way: str, instructions: str
) -> None:
    case = Case(rows=9, columns=130, tokens=20, density=0.5, seed=3)
    x = case.x()
    for at, value in enumerate(SPECIAL):
        x[3 + at, 64 * at] = value
    packed = pack(case.weight(), values=dtype)
    expected = torch.nn.functional.linear(x, packed.dense().float())
    made = product(packed, x, way)
    assert torch.equal(made.isnan(), expected.isnan())
    assert torch.equal(made.isposinf(), expected.isposinf())
    torch.testing.assert_close(made, expected, equal_nan=True, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_nan_values_pass_on_and_denormals_stay(dtype: torch.dtype, way: str, instructions: str) -> None:
    weight = torch.zeros(5, 70, dtype=dtype)
    weight[0, 65] = float("nan")
    weight[1, 3] = float("inf")
    weight[2, 69] = torch.tensor(1, dtype=torch.int16).view(torch.bfloat16).to(dtype)  # the least bfloat16
    weight[3, 0] = 1
    x = torch.ones(3, 70)
    x[:, 0] = 1e-42
    made = product(pack(weight, values=dtype), x, way)
    assert bool(made[:, 0].isnan().all())
    assert bool(made[:, 1].isposinf().all())
    assert torch.equal(made[:, 2:], weight[2:].float().sum(1).mul(torch.tensor([1, 1e-42, 1])).expand(3, 3))


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("dtype", TYPES)
def test_bits_depend_neither_on_threads_nor_on_other_tokens(
    dtype: torch.dtype, way: str, instructions: str
) -> None:
    case = Case(rows=77, columns=200, tokens=19, density=0.3, seed=1)
    packed = pack(case.weight(), values=dtype)
    x = case.x()
    one = product(packed, x, way)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        assert torch.equal(product(packed, x, way), one)
    finally:
        torch.set_num_threads(before)
    other = x.clone()
    other[1:] = 7
    assert torch.equal(product(packed, other, way)[0], one[0])


def test_the_plain_fallback_gives_the_same(library: Native) -> None:
    case = Case(rows=20, columns=150, tokens=6, density=0.4, seed=5)
    for dtype in TYPES:
        linear = SparseLinear.of(pack(case.weight(), values=dtype))
        parts = (linear._bits, linear._values, linear._scales, linear._group)
        expected, allowed = exact(case.x(), linear.packed().dense())
        assert bool(((operators.plain_linear(case.x(), *parts) - expected).abs() <= allowed).all())
