"""Tests of packed weights."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from secateur.sparse import Packed, pack
from tests.sparse.weights import CASES, Case

ODD = Case(rows=3, columns=70, tokens=1, density=0.3, seed=0)


def bits_of(weight: torch.Tensor) -> torch.Tensor:
    return weight.view({2: torch.int16, 4: torch.int32}[weight.element_size()])


@given(CASES, st.sampled_from([torch.float32, torch.bfloat16]))
def test_float_types_are_lossless_to_the_bit(case: Case, dtype: torch.dtype) -> None:
    weight = case.weight().to(dtype)
    weight[-1, -1] = -0.0
    weight[-1, 0] = float("nan")
    packed = pack(weight, values=dtype)
    assert torch.equal(bits_of(packed.dense()), bits_of(weight))
    assert packed.density == (bits_of(weight) != 0).double().mean()


def test_float32_holds_bfloat16_and_float16() -> None:
    for dtype in (torch.bfloat16, torch.float16):
        weight = ODD.weight().to(dtype)
        assert torch.equal(pack(weight, values=torch.float32).dense().to(dtype), weight)


@given(CASES)
def test_int8_is_within_half_a_step_of_its_group(case: Case) -> None:
    weight = case.weight()
    packed = pack(weight, values=torch.int8, group=64)
    assert packed.scales is not None
    step = packed.scales.repeat_interleave(64, dim=1)[:, : case.columns]
    assert bool(((packed.dense() - weight).abs() <= 0.5001 * step).all())
    assert bool((packed.dense()[weight == 0] == 0).all())


def test_numpy_reads_the_form() -> None:
    weight = ODD.weight()
    packed = pack(weight, values=torch.float32)
    kept = np.unpackbits(packed.bits.numpy(), axis=1, count=70, bitorder="little").astype(bool)
    read = np.zeros((3, 70), np.float32)
    read[kept] = packed.values.numpy()
    assert np.array_equal(read, weight.numpy())


def test_bytes_at_70_percent_zeros() -> None:
    weight = torch.ones(64, 640)
    weight.view(-1)[torch.arange(weight.numel()) % 10 < 7] = 0
    assert pack(weight).nbytes == 64 * 640 // 8 + 2 * 64 * 192
    assert pack(weight, values=torch.int8).nbytes == 64 * 640 // 8 + 64 * 192 + 4 * 64 * 5


def test_parts_that_do_not_fit_are_refused() -> None:
    packed = pack(ODD.weight())
    with pytest.raises(ValueError, match="bits are set, but there are"):
        Packed(packed.shape, packed.bits, packed.values[:-1])
    beyond = packed.bits.clone()
    beyond[0, -1] |= 0x80
    with pytest.raises(ValueError, match="after the last column, 69"):
        Packed(packed.shape, beyond, packed.values)
    with pytest.raises(
        ValueError, match=r"bits is torch.uint8 \(3, 9\) on cpu; it must be torch.uint8 \(3, 8\)"
    ):
        Packed((3, 64), packed.bits, packed.values)
    with pytest.raises(ValueError, match="only int8 has them"):
        Packed(packed.shape, packed.bits, packed.values, torch.ones(3, 1), 128)
    with pytest.raises(ValueError, match="need scales"):
        Packed(packed.shape, packed.bits, packed.values.to(torch.int8))


def test_weights_that_cannot_be_packed_are_refused() -> None:
    with pytest.raises(ValueError, match="multiple of 64"):
        pack(ODD.weight(), values=torch.int8, group=32)
    with pytest.raises(ValueError, match="is for int8 values"):
        pack(ODD.weight(), group=64)
    with pytest.raises(ValueError, match="NaN or infinity"):
        pack(torch.tensor([[float("inf")]]), values=torch.int8)
    with pytest.raises(ValueError, match=r"torch.float64 \(1, 1\) on cpu"):
        pack(torch.ones(1, 1, dtype=torch.float64))
    with pytest.raises(ValueError, match=r"values=torch.float16 is not known"):
        pack(ODD.weight(), values=torch.float16)
