"""Training sequences: one row of documents, cut without padding, shuffled shard by shard, read no further."""

import hashlib
import random
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipeline.artifacts.curve import position_of
from pipeline.errors import InvalidSpec, TextTooShort
from pipeline.spec.training_recipe import TrainingText
from pipeline.text import sequences
from pipeline.text.sequences import Row, check_enough, shuffled_shards
from tests.models import tiny_documents, tiny_tokenizer

EOS = 1
LLAMA = tiny_tokenizer("llama")  # puts <s> in front of what is not training text


class Letters:
    """A token for each character, so that a row can be read."""

    eos_token_id: int | None = EOS

    def __call__(self, text: str, *, add_special_tokens: bool, verbose: bool) -> dict[str, list[int]]:
        assert not add_special_tokens
        return {"input_ids": [ord(letter) for letter in text]}


def training_text(**fields: Any) -> TrainingText:
    given = {"source": "file:/t/text.txt", "sequence_length": 8, "validation_sequences": 2}
    return TrainingText.model_validate(given | fields)


def counted(number: int) -> Iterator[torch.Tensor]:
    """Sequences that carry their number."""
    return (torch.full((8,), i, dtype=torch.int32) for i in range(number))


def numbers(shards: list[torch.Tensor]) -> list[list[int]]:
    return [shard[:, 0].tolist() for shard in shards]


@given(documents=st.lists(st.text("abc", max_size=40), max_size=12), length=st.integers(8, 20))
def test_sequences_are_the_row_cut_up_and_the_rest_is_dropped(documents: list[str], length: int) -> None:
    row = Row(training_text(sequence_length=length), Letters())
    found = list(row.sequences(documents))
    whole = [token for document in documents for token in [*map(ord, document), EOS]]
    assert [token for sequence in found for token in sequence.tolist()] == whole[: len(found) * length]
    assert len(found) == len(whole) // length
    assert all(sequence.dtype == torch.int32 and sequence.shape == (length,) for sequence in found)
    assert row.read_tokens == len(whole)


def test_a_real_tokenizer_adds_eos_and_nothing_in_front() -> None:
    documents = tiny_documents(count=5)
    joined = torch.cat(list(Row(training_text(), LLAMA).sequences(documents))).tolist()
    ids = [LLAMA(document, add_special_tokens=False)["input_ids"] for document in documents]
    assert joined == [token for piece in ids for token in [*piece, EOS]][: len(joined)]
    assert joined.count(EOS) >= 4


def test_reading_stops_when_there_is_enough_and_the_digest_tells_what_was_read() -> None:
    taken = []

    def documents() -> Iterator[str]:
        for document in ("abcdefg", "hij", "klmnopqrst", "never", "read"):
            taken.append(document)
            yield document

    row = Row(training_text(), Letters())
    found = row.sequences(documents())
    first = [next(found), next(found)]  # 8 tokens of the first document, then 8 of the next two
    assert [len(sequence) for sequence in first] == [8, 8]
    assert taken == ["abcdefg", "hij", "klmnopqrst"]
    expected = hashlib.sha256()
    for document in taken:
        expected.update(len(document).to_bytes(8, "little") + document.encode())
    assert row.digest.hexdigest() == expected.hexdigest()


def test_where_documents_end_is_part_of_the_digest() -> None:
    digests = set()
    for documents in (["ab", "c"], ["a", "bc"], ["abc"], ["abc", ""]):
        row = Row(training_text(), Letters())
        list(row.sequences(documents))
        digests.add(row.digest.hexdigest())
    assert len(digests) == 4


def test_a_tokenizer_without_eos_is_refused() -> None:
    tokenizer = Letters()
    tokenizer.eos_token_id = None
    with pytest.raises(InvalidSpec, match="set eos_token in its") as caught:
        next(Row(training_text(), tokenizer).sequences(["a"]))
    assert caught.value.param == "spec.recovery.text"


class TestShards:
    def test_each_sequence_once_shuffled_within_its_shard_by_the_seed(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(sequences, "SHUFFLED", 16)
        text = training_text(seed=3)
        found = numbers(list(shuffled_shards(counted(100), text, wanted=40)))
        assert [sorted(shard) for shard in found] == [
            list(range(16)),
            list(range(16, 32)),
            list(range(32, 40)),
        ]
        assert found[0] != sorted(found[0])
        again = numbers(list(shuffled_shards(counted(100), text, wanted=40)))
        other = numbers(list(shuffled_shards(counted(100), training_text(seed=4), wanted=40)))
        assert found == again != other

    @pytest.mark.parametrize(("most", "sizes"), [(10**6, [40]), (8 * 4 * 10, [10] * 4), (1, [1] * 40)])
    def test_a_shard_has_a_bound_in_bytes(
        self, monkeypatch: pytest.MonkeyPatch, most: int, sizes: list[int]
    ) -> None:
        monkeypatch.setattr(sequences, "SHARD_BYTES", most)
        shards = list(shuffled_shards(counted(40), training_text(), wanted=40))
        assert [len(shard) for shard in shards] == sizes

    def test_no_sequence_more_than_wanted_is_taken(self) -> None:
        source = counted(10)
        assert sum(map(len, shuffled_shards(source, training_text(), wanted=7))) == 7
        assert int(next(source)[0]) == 7

    @pytest.mark.parametrize("available", [0, 5])
    def test_a_short_text_gives_what_it_has(self, available: int) -> None:
        shards = list(shuffled_shards(counted(available), training_text(), wanted=7))
        assert sorted(number for shard in numbers(shards) for number in shard) == list(range(available))


class TestEnough:
    @pytest.mark.parametrize(("epochs", "found", "needed"), [(1, 10, 10), (3, 4, 12), (3, 4, 10)])
    def test_epochs_make_up_for_a_short_text(self, epochs: int, found: int, needed: int) -> None:
        check_enough(training_text(epochs=epochs), found=found, needed=needed, read_tokens=100)

    @pytest.mark.parametrize(
        ("epochs", "found", "times"), [(2, 4, "3 times"), (1, 9, "2 times"), (5, 0, "more often")]
    )
    def test_too_short_says_what_there_is_and_what_to_change(
        self, epochs: int, found: int, times: str
    ) -> None:
        with pytest.raises(TextTooShort) as caught:
            check_enough(training_text(epochs=epochs), found=found, needed=10, read_tokens=123)
        assert caught.value.param == "spec.recovery.text.epochs"
        for words in ("123 tokens", f"{found} training sequences of 8", times, f"epochs is {epochs}"):
            assert words in caught.value.message


class TestDataOrder:
    @given(
        shards=st.lists(st.integers(1, 20), min_size=1, max_size=5),
        epoch=st.integers(0, 3),
        seed=st.integers(0, 2**32 - 1),
    )
    def test_every_epoch_is_a_permutation(self, shards: list[int], epoch: int, seed: int) -> None:
        count = sum(shards)
        found = [position_of(epoch * count + i, shards, seed=seed) for i in range(count)]
        assert sorted(found) == [(shard, row) for shard, size in enumerate(shards) for row in range(size)]
        if epoch == 0:
            assert found == sorted(found)  # as written: shuffled already

    def test_the_order_stays_what_it_was(self) -> None:
        """Another one would end trainings that go on from a checkpoint with other data than they began."""
        order = [position_of(30 + i, [10, 5], seed=0) for i in range(15)]
        assert order[:5] == [(1, 2), (1, 4), (1, 0), (1, 3), (1, 1)]
        assert [row for _, row in order[5:]] == [1, 7, 2, 9, 8, 6, 5, 4, 3, 0]

    def test_later_epochs_differ_and_stay_in_a_shard_while_it_lasts(self) -> None:
        sizes = [30, 30, 30]
        orders = [[position_of(90 * epoch + i, sizes, seed=1) for i in range(90)] for epoch in range(4)]
        assert len({tuple(order) for order in orders}) == 4
        for order in orders:
            assert sum(a[0] != b[0] for a, b in pairwise(order)) == 2

    def test_nothing_else_that_draws_is_disturbed(self) -> None:
        random.seed(5)
        expected = random.random()
        random.seed(5)
        position_of(100, [10, 10], seed=0)
        list(shuffled_shards(counted(20), training_text(), wanted=20))
        assert random.random() == expected
