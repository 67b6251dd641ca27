"""N:M masks as codes: the candidates' numbers, as many to a byte as fit, and back."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import CorruptObject
from pipeline.tensor.codes import (
    codes_per_byte,
    has_codes,
    pack_codes,
    pack_groups,
    packed_bytes,
    unpack_codes,
    unpack_groups,
)
from pipeline.tensor.soft_masks import candidates

PATTERNS = [
    (keep, group) for group in range(2, 65) for keep in range(1, group) if math.comb(group, keep) <= 70
]


@given(
    pattern=st.sampled_from(PATTERNS),
    rows=st.integers(0, 7),
    groups=st.integers(1, 9),
    seed=st.integers(0, 9),
)
def test_masks_come_back(pattern: tuple[int, int], rows: int, groups: int, seed: int) -> None:
    keep, group = pattern
    masks_CM = candidates(keep, group)
    generator = torch.Generator().manual_seed(seed)
    numbers = torch.randint(len(masks_CM), (rows * groups,), generator=generator)
    keep_OI = masks_CM[numbers].reshape(rows, groups * group)
    packed = pack_groups(keep_OI, keep=keep, group=group)
    assert packed.dtype == torch.uint8
    assert len(packed) == packed_bytes(rows * groups, count=len(masks_CM))
    assert unpack_codes(packed, rows * groups, count=len(masks_CM)).tolist() == numbers.tolist()
    assert unpack_groups(packed, keep_OI.shape, keep=keep, group=group).equal(keep_OI)


@given(count=st.integers(2, 256), codes=st.lists(st.integers(0, 255), max_size=30))
def test_digits_of_a_byte(count: int, codes: list[int]) -> None:
    codes = [code % count for code in codes]
    packed = pack_codes(torch.tensor(codes, dtype=torch.uint8), count=count).tolist()
    per_byte = codes_per_byte(count)
    assert count**per_byte <= 256 < count ** (per_byte + 1)
    parts = [codes[i : i + per_byte] for i in range(0, len(codes), per_byte)]
    assert packed == [sum(code * count**j for j, code in enumerate(part)) for part in parts]
    assert unpack_codes(torch.tensor(packed, dtype=torch.uint8), len(codes), count=count).tolist() == codes


def test_two_of_four_is_two_thirds_of_a_bit_in_the_order_of_the_candidates() -> None:
    assert codes_per_byte(6) == 3
    keep_OI = candidates(2, 4).reshape(2, 12)
    packed = pack_groups(keep_OI, keep=2, group=4)
    assert packed.tolist() == [0 + 1 * 6 + 2 * 36, 3 + 4 * 6 + 5 * 36]
    assert 8 * packed_bytes(4096 * 3072 // 4, count=6) / (4096 * 3072) == pytest.approx(2 / 3, abs=1e-6)
    drawn_G = torch.randint(70, (300,), dtype=torch.uint8)
    packed_B = pack_groups(candidates(4, 8)[drawn_G.long()], keep=4, group=8)
    assert unpack_codes(packed_B, 300, count=70).equal(drawn_G)
    assert has_codes(4, 8)
    assert has_codes(1, 64)
    assert not has_codes(8, 16)


def test_bytes_that_are_no_codes_are_refused() -> None:
    packed = pack_groups(candidates(2, 4), keep=2, group=4)
    with pytest.raises(CorruptObject, match=r"6 codes of 6 candidates are uint8 \[2\].*\[3\]"):
        unpack_codes(torch.cat([packed, packed[:1]]), 6, count=6)
    with pytest.raises(CorruptObject, match="uint8"):
        unpack_codes(packed.long(), 6, count=6)
    with pytest.raises(CorruptObject, match="byte 1 is 216, and 3 codes of 6 candidates are at most 215"):
        unpack_codes(torch.tensor([0, 216], dtype=torch.uint8), 6, count=6)
    with pytest.raises(CorruptObject, match="behind the last of 4 codes"):
        unpack_codes(torch.tensor([0, 6], dtype=torch.uint8), 4, count=6)
