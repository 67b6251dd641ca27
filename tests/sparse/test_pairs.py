"""Tests of weights with two values in every four columns, and of the kernels that follow their codes."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from secateur.sparse import SparseLinear, operators, pack
from secateur.sparse.library import native
from secateur.sparse.pairs import paired, without
from tests.sparse.weights import TYPES, Case, exact

SHAPES = st.tuples(st.integers(1, 23), st.sampled_from([64, 128, 192, 320]), st.integers(0, 1000))


def two_of_four(rows: int, columns: int, seed: int, *, holes: int = 0) -> Tensor:
    """A weight with two values in every four columns, but for `holes` of them."""
    drawn = torch.Generator().manual_seed(seed)
    weight = torch.randn(rows, columns // 4, 4, generator=drawn)
    order = torch.rand(weight.shape, generator=drawn).argsort(-1)
    weight[order < 2] = 0
    weight = weight.view(rows, columns)
    for place in torch.randperm(weight.numel(), generator=drawn)[: 2 * holes].tolist():
        weight.view(-1)[place] = 0
    return weight


@settings(max_examples=40)
@given(SHAPES, st.integers(0, 3))
def test_zeros_are_added_and_taken_away(shape: tuple[int, int, int], holes: int) -> None:
    packed = pack(two_of_four(*shape, holes=holes), values=torch.bfloat16)
    found = paired(packed)
    assert found is not None
    assert found.packed.density == 0.5
    assert torch.equal(found.packed.dense(), packed.dense())
    assert len(found.added) == found.packed.values.shape[0] - packed.values.shape[0]
    back = without(found.packed, found.added)
    assert torch.equal(back.bits, packed.bits)
    assert torch.equal(back.values, packed.values)


@settings(max_examples=20)
@given(SHAPES)
def test_codes_tell_where_values_stand(shape: tuple[int, int, int]) -> None:
    weight = two_of_four(*shape)
    found = paired(pack(weight, values=torch.float32))
    assert found is not None
    read = torch.zeros_like(weight).view(-1, 4)
    codes = found.codes.view(-1).tolist()
    for four, (first, second) in enumerate(found.packed.values.view(-1, 2).tolist()):
        code = codes[four // 2] >> (4 * (four % 2))
        read[four, code & 3], read[four, code >> 2 & 3] = first, second
    assert torch.equal(read.view(weight.shape), weight)


@pytest.mark.parametrize(
    ("case", "why"),
    [
        (Case(rows=8, columns=128, tokens=1, density=0.5, seed=0), "three of four somewhere"),
        (Case(rows=2, columns=128, tokens=1, density=0.0, seed=0), "few values"),
    ],
)
def test_other_weights_keep_their_bits(case: Case, why: str) -> None:
    assert paired(pack(case.weight())) is None, why
    assert paired(pack(two_of_four(4, 96, 0))) is None, "64 does not divide 96"


@pytest.fixture
def permuting() -> None:
    if native().chosen != "avx512":
        pytest.skip("this CPU has no avx512, whose kernels alone follow codes")


@pytest.mark.usefixtures("permuting")
@pytest.mark.parametrize("dtype", TYPES)
def test_products_are_those_of_the_dense_weight(dtype: torch.dtype) -> None:
    @settings(max_examples=30)
    @given(SHAPES, st.sampled_from([0, 2]), st.sampled_from([1, 1, 1, 3, 20]))
    def check(shape: tuple[int, int, int], holes: int, tokens: int) -> None:
        packed = pack(two_of_four(*shape, holes=holes), values=dtype)
        linear = SparseLinear.of(packed)
        assert linear._codes is not None
        assert torch.equal(linear.packed().bits, packed.bits)
        x = torch.randn(tokens, shape[1], generator=torch.Generator().manual_seed(shape[2]))
        expected, allowed = exact(x, packed.dense())
        assert bool(((linear(x) - expected).abs() <= allowed).all())

    check()


@pytest.mark.usefixtures("permuting")
@pytest.mark.parametrize("dtype", TYPES)
def test_infinite_inputs_threads_and_the_module_around(dtype: torch.dtype) -> None:
    weight = two_of_four(37, 192, 3)
    linear = SparseLinear.of(pack(weight, values=dtype))
    x = torch.randn(1, 192, generator=torch.Generator().manual_seed(1))
    one, before = linear(x), torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        assert torch.equal(linear(x), one)
    finally:
        torch.set_num_threads(before)
    compiled = torch.compile(linear, backend="aot_eager", fullgraph=True)
    with torch.no_grad():
        assert torch.equal(compiled(x), one)
    x[0, 70] = float("inf")
    expected = torch.nn.functional.linear(x, linear.packed().dense().float())
    assert torch.equal(linear(x).isnan(), expected.isnan())
    assert torch.equal(linear(x).isposinf(), expected.isposinf())


def test_codes_of_another_shape_are_refused() -> None:
    linear = SparseLinear.of(pack(two_of_four(4, 64, 0)))
    parts = (linear._bits, linear._values, linear._starts, None, 0)
    with pytest.raises(ValueError, match="need the shape of the bits"):
        operators.linear(torch.ones(1, 64), *parts, codes=torch.zeros(4, 7, dtype=torch.uint8))
