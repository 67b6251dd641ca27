"""Counts how often each token occurs in a corpus, in shares whose counts add up in any order.

Shape legend: V vocabulary.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from typing import Protocol, TypeVar

import torch
from torch import Tensor

from pipeline.errors import TextTooShort
from pipeline.spec.vocabulary import FIELD

BATCH_CHARACTERS = 1 << 20  # tokenised at once: enough to use the tokenizer's threads, and little memory
EVERY = 20  # without a separate held-out text, every 20th document is held out for the proof
MAX_HELD_OUT = 2000  # the limit of held-out documents, which stay in memory

Document = TypeVar("Document")


class Encoder(Protocol):
    """The part of a tokenizer that counting needs."""

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Returns the token ids of each text, without the special tokens of a template."""
        ...


@dataclass(frozen=True)
class TokenCounts:
    """Occurrences of each token, int64 [V], in `documents` documents of `bytes` UTF-8 bytes."""

    tokens_V: Tensor
    documents: int = 0
    bytes: int = 0

    @property
    def total(self) -> int:
        """The number of tokens of the corpus."""
        return int(self.tokens_V.sum())


def is_held_out(i: int) -> bool:
    """Tells whether document number `i`, from 0, is held out and so not counted."""
    return i % EVERY == EVERY - 1 and i < EVERY * MAX_HELD_OUT


def check_held_out(documents: Sequence[str]) -> None:
    """Raises TextTooShort when there is no text to prove the smaller tokenizer with."""
    if not documents:
        raise TextTooShort(
            f"no document is held out to prove the smaller tokenizer with: vocabulary.texts have fewer "
            f"than {EVERY}; name vocabulary.held_out, or a longer corpus",
            f"{FIELD}.held_out",
        )


def share_of(documents: Iterable[Document], share: int, *, of: int) -> Iterator[Document]:
    """Yields every `of`-th document, from number `share` on: the shares 0 to `of` - 1 contain each document
    once."""
    return islice(documents, share, None, of)


def count_tokens(documents: Iterable[str], tokenizer: Encoder, *, rows: int) -> Iterator[int | TokenCounts]:
    """Yields the number of documents done so far, and finally the counts. Memory holds a batch of documents.

    `rows`: V, the rows of the embedding; every id must be below it.
    """
    tokens_V = torch.zeros(rows, dtype=torch.int64)
    done = size = 0
    for batch in batches(documents, characters=BATCH_CHARACTERS):
        ids = torch.tensor(list(chain.from_iterable(tokenizer.encode(batch))), dtype=torch.int64)
        tokens_V += torch.bincount(ids, minlength=rows)
        done += len(batch)
        size += sum(len(document.encode()) for document in batch)
        yield done
    yield TokenCounts(tokens_V, documents=done, bytes=size)


def merged(parts: Sequence[TokenCounts]) -> TokenCounts:
    """Adds up the counts of all shares."""
    return TokenCounts(
        torch.stack([part.tokens_V for part in parts]).sum(0),
        documents=sum(part.documents for part in parts),
        bytes=sum(part.bytes for part in parts),
    )


def batches(documents: Iterable[str], *, characters: int) -> Iterator[list[str]]:
    """Yields documents in their order, up to `characters` characters at a time; a longer document forms its
    own batch."""
    batch: list[str] = []
    size = 0
    for document in documents:
        if batch and size + len(document) > characters:
            yield batch
            batch, size = [], 0
        batch.append(document)
        size += len(document)
    if batch:
        yield batch
