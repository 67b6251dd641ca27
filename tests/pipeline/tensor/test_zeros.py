"""Zeros are counted and hashed as numpy would, and the first weight that came back is named."""

import hashlib

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipeline.tensor import zeros
from pipeline.tensor.zeros import count_zeros, first_bad_group, first_revived, keep_sha256


@given(st.integers(0, 10**6), st.lists(st.integers(1, 7), min_size=1, max_size=3), st.integers(0, 3))
def test_first_revived_is_the_first_of_all(seed: int, shape: list[int], revived: int) -> None:
    rng = np.random.default_rng(seed)
    keep = rng.random(shape) < 0.5
    weight = np.where(keep, rng.standard_normal(shape), 0.0).astype(np.float32)
    places = np.argwhere(~keep)
    for place in rng.permutation(places)[:revived]:
        weight[tuple(place)] = rng.choice([1e-30, np.nan, -np.inf])
    expected = [tuple(place) for place in places.tolist() if weight[tuple(place)] != 0]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(zeros, "CHUNK", 5)
        assert first_revived(torch.from_numpy(weight), torch.from_numpy(keep)) == (
            expected[0] if expected else None
        )
    held = int((~keep).sum())
    assert count_zeros(torch.from_numpy(weight), torch.from_numpy(keep)) == held - len(expected)


def test_minus_zero_is_zero_and_empty_is_fine() -> None:
    assert first_revived(torch.tensor([[-0.0, 1.0]]), torch.tensor([[False, True]])) is None
    assert first_revived(torch.empty(0, 4), torch.empty(0, 4, dtype=torch.bool)) is None


def test_keep_sha256_is_that_of_numpys_packed_bits() -> None:
    keep = torch.rand(5, 7, generator=torch.Generator().manual_seed(0)) < 0.5
    packed = np.packbits(keep.numpy(), axis=None, bitorder="little")
    assert keep_sha256(keep) == hashlib.sha256(packed.tobytes()).hexdigest()
    assert keep_sha256(keep) != keep_sha256(keep.t())


def test_groups() -> None:
    keep = torch.tensor([[1, 1, 0, 0, 0, 1, 1, 0], [1, 0, 1, 0, 1, 0, 0, 1]]).bool()
    assert first_bad_group(keep, keep=2, group=4) is None
    assert first_bad_group(keep, keep=1, group=2) == (0, 0)
    keep[1, 6] = True
    assert first_bad_group(keep, keep=2, group=4) == (1, 1)
    assert first_bad_group(keep, keep=2, group=3) == (0, 1)
    assert first_bad_group(torch.ones(2, 3, dtype=torch.bool), keep=2, group=2) == (0, 1)  # a rest
