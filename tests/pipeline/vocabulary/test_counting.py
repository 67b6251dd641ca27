"""Counts add up, however a corpus is shared out."""

from collections import Counter
from itertools import chain

import torch
from hypothesis import given
from hypothesis import strategies as st

from pipeline.vocabulary import counting
from pipeline.vocabulary.counting import (
    EVERY,
    TokenCounts,
    batches,
    count_tokens,
    is_held_out,
    merged,
    share_of,
)
from pipeline.vocabulary.cutting import read_vocabulary
from tests.pipeline.vocabulary.tokenizers import LINES, tokenizer_files


class Letters:
    """Every character is a token."""

    def encode(self, texts: list[str]) -> list[list[int]]:
        return [[ord(character) for character in text] for text in texts]


letters = st.text(st.characters(max_codepoint=127), max_size=9)


@given(st.lists(letters, max_size=12), st.integers(1, 5), st.integers(1, 20))
def test_shares_add_up_to_the_whole(documents: list[str], shares: int, characters: int) -> None:
    parts = []
    for share in range(shares):
        *told, part = count_tokens(share_of(documents, share, of=shares), Letters(), rows=128)
        assert isinstance(part, TokenCounts)
        assert told[-1:] in ([], [part.documents])
        parts.append(part)
    together = merged(parts)
    expected = Counter("".join(documents))
    assert {chr(i): count for i, count in enumerate(together.tokens_V.tolist()) if count} == expected
    assert together.documents == len(documents)
    assert together.bytes == together.total == sum(map(len, documents))
    assert [*chain.from_iterable(batches(documents, characters=characters))] == documents
    assert all(
        len("".join(batch)) <= characters or len(batch) == 1
        for batch in batches(documents, characters=characters)
    )


@given(st.integers(0, 200), st.integers(1, 7))
def test_every_document_is_counted_or_held_out_whoever_reads_it(documents: int, shares: int) -> None:
    read = [i for share in range(shares) for i in share_of(range(documents), share, of=shares)]
    assert sorted(read) == list(range(documents))
    assert sum(map(is_held_out, read)) == documents // EVERY


def test_a_huge_corpus_keeps_few_documents_in_memory(monkeypatch) -> None:
    monkeypatch.setattr(counting, "MAX_HELD_OUT", 3)
    assert [i for i in range(1000) if is_held_out(i)] == [19, 39, 59]


def test_progress_is_told_batch_by_batch(monkeypatch) -> None:
    monkeypatch.setattr(counting, "BATCH_CHARACTERS", 200)
    tokenizer = read_vocabulary(tokenizer_files("tokenizer-json")).tokenizer
    *told, counts = count_tokens(LINES, tokenizer, rows=384)
    assert told == sorted(told)
    assert told[-1] == len(LINES)
    assert len(told) > 3
    naive = Counter(token for line in LINES for token in tokenizer.encode([line])[0])
    assert isinstance(counts, TokenCounts)
    assert torch.equal(counts.tokens_V, torch.tensor([naive[token] for token in range(384)]))
    assert counts.bytes == len("".join(LINES).encode())
