"""Texts with gaps: what an encoder reads and a decoder writes."""

import random
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer

from pipeline.errors import InvalidSpec
from pipeline.tensor.pairs import joined, parted
from pipeline.text.spans import Gaps
from tests.encoder_decoder_checkpoints import SENTINELS, unigram_tokenizer
from tests.models import tiny_tokenizer

EOS = 1
MANY = Gaps(sentinels=range(1000, 900, -1), eos=EOS, field="spec.calibration")


@given(read=st.lists(st.integers(0, 2**31)), written=st.lists(st.integers(0, 2**31)))
def test_a_pair_is_parted_as_it_was_joined(read: list[int], written: list[int]) -> None:
    sides = (torch.tensor(read, dtype=torch.int64), torch.tensor(written, dtype=torch.int64))
    again = parted(joined(*sides))
    assert [one.tolist() for one in again] == [read, written]


@given(length=st.integers(4, 600), seed=st.integers(0, 2**32 - 1))
def test_what_was_in_the_gaps_is_what_is_written(length: int, seed: int) -> None:
    tokens = list(range(10, 10 + length))
    read, written = (side.tolist() for side in parted(MANY.pair(torch.tensor(tokens), random.Random(seed))))
    assert read.pop() == written.pop() == EOS
    gaps: dict[int, list[int]] = {}
    for token in written:
        if token > 900:
            gaps[token] = []
        else:
            gaps[[*gaps][-1]].append(token)
    assert [*gaps] == [*range(1000, 1000 - len(gaps), -1)]
    assert all(gaps.values())
    filled = [one for token in read for one in (gaps[token] if token > 900 else [token])]
    assert filled == tokens
    assert not any(one > 900 and other > 900 for one, other in pairwise(read))


@given(length=st.integers(4, 600), seeds=st.tuples(st.integers(0, 99), st.integers(100, 199)))
def test_the_length_of_both_sides_follows_from_that_of_the_text(length: int, seeds: tuple[int, int]) -> None:
    one, other = (MANY.pair(torch.arange(length), random.Random(seed)) for seed in seeds)
    assert [len(side) for side in parted(one)] == [len(side) for side in parted(other)]


def test_a_long_text_has_fifteen_percent_in_gaps_of_three() -> None:
    read, written = parted(MANY.pair(torch.arange(1000, 1512), random.Random(0)))
    gaps = round(512 * 0.15 / 3)
    assert len(written) == round(512 * 0.15) + gaps + 1
    assert len(read) == 512 - round(512 * 0.15) + gaps + 1


def test_there_are_no_more_gaps_than_sentinels() -> None:
    few = Gaps(sentinels=(1000, 999), eos=EOS, field="spec.calibration")
    read, written = parted(few.pair(torch.arange(512), random.Random(0)))
    assert int((read > 900).sum()) == int((written > 900).sum()) == 2


def test_equal_seeds_give_equal_pairs() -> None:
    samples = torch.arange(240).reshape(3, 80)
    assert torch.equal(MANY.pairs(samples, seed=3), MANY.pairs(samples, seed=3))
    assert not torch.equal(MANY.pairs(samples, seed=3), MANY.pairs(samples, seed=4))


def test_sentinels_are_the_tokenizer_s(tmp_path) -> None:
    unigram_tokenizer(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    gaps = Gaps.of(tokenizer, field="spec.calibration")
    assert len(gaps.sentinels) == SENTINELS
    assert tokenizer.convert_ids_to_tokens(gaps.sentinels[0]) == "<extra_id_0>"
    assert gaps.eos == tokenizer.eos_token_id == EOS


def test_a_tokenizer_without_sentinels_is_refused() -> None:
    with pytest.raises(InvalidSpec, match="no token <extra_id_0>") as refused:
        Gaps.of(tiny_tokenizer("llama"), field="spec.calibration")
    assert refused.value.param == "spec.calibration"


def test_a_text_without_room_for_a_gap_is_refused() -> None:
    with pytest.raises(InvalidSpec, match="sequence_length 3 leaves no room"):
        MANY.pair(torch.arange(3), random.Random(0))
