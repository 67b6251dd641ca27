"""Packed keep tensors: the bits of numpy.packbits, and back."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from pipeline.errors import CorruptObject
from pipeline.tensor.packing import pack_keep, unpack_keep

keeps = npst.arrays(np.bool_, npst.array_shapes(min_dims=1, max_dims=3, min_side=0, max_side=19))


@given(keep=keeps)
def test_roundtrip_in_numpys_little_bit_order(keep: np.ndarray) -> None:
    packed = pack_keep(torch.from_numpy(keep))
    np.testing.assert_array_equal(packed.numpy(), np.packbits(keep, axis=None, bitorder="little"))
    np.testing.assert_array_equal(unpack_keep(packed, keep.shape).numpy(), keep)


def test_the_first_weight_is_the_lowest_bit() -> None:
    keep = torch.zeros(3, 4, dtype=torch.bool)
    keep[0, 0] = keep[2, 1] = True  # weights 0 and 9
    assert pack_keep(keep).tolist() == [1, 2]


def test_memory_layout_does_not_matter() -> None:
    keep = torch.rand(5, 7, generator=torch.Generator().manual_seed(0)) < 0.5
    assert pack_keep(keep.t().contiguous().t()).equal(pack_keep(keep))
    assert unpack_keep(pack_keep(keep), torch.Size([5, 7])).equal(keep)


@given(keep=keeps, extra=st.integers(1, 3))
def test_bytes_of_another_length_are_refused(keep: np.ndarray, extra: int) -> None:
    packed = pack_keep(torch.from_numpy(keep))
    longer = torch.cat([packed, torch.zeros(extra, dtype=torch.uint8)])
    with pytest.raises(CorruptObject, match="packed keep tensor"):
        unpack_keep(longer, keep.shape)


def test_other_dtypes_and_stray_bits_are_refused() -> None:
    with pytest.raises(CorruptObject, match=r"got torch\.int64"):
        unpack_keep(torch.zeros(2, dtype=torch.int64), (3, 4))
    with pytest.raises(CorruptObject, match="behind its last weight"):
        unpack_keep(torch.tensor([0, 0b10000], dtype=torch.uint8), (3, 4))
