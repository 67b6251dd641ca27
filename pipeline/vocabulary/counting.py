"""How often each token occurs in a corpus, in parts that add up in any order.

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

BATCH_CHARACTERS = 1 << 20  # tokenised at once: enough for the tokenizer's threads, little for the memory
EVERY = 20  # without a text to prove by, every 20th document of the corpus is not counted, and proves
MAX_HELD_OUT = 2000  # of these; they are kept in memory

Document = TypeVar("Document")


class Encoder(Protocol):
    """What counting needs of a tokenizer."""

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text, without those that a template puts around it."""
        ...


@dataclass(frozen=True)
class TokenCounts:
    """Occurrences of each token, int64 [V], in so many documents of so many UTF-8 bytes."""

    tokens_V: Tensor
    documents: int = 0
    bytes: int = 0

    @property
    def total(self) -> int:
        """Tokens of the corpus."""
        return int(self.tokens_V.sum())


def is_held_out(i: int) -> bool:
    """Whether document number `i`, from 0, is one of those that are not counted."""
    return i % EVERY == EVERY - 1 and i < EVERY * MAX_HELD_OUT


def check_held_out(documents: Sequence[str]) -> None:
    """Raise TextTooShort when there is nothing to prove the smaller tokenizer with."""
    if not documents:
        raise TextTooShort(
            f"no document is held out, of which the smaller tokenizer is proved: vocabulary.texts have fewer "
            f"than {EVERY}; name vocabulary.held_out, or a longer corpus",
            f"{FIELD}.held_out",
        )


def share_of(documents: Iterable[Document], share: int, *, of: int) -> Iterator[Document]:
    """Every `of`-th document, from number `share` on: the shares 0 to `of` - 1 hold each document once."""
    return islice(documents, share, None, of)


def count_tokens(documents: Iterable[str], tokenizer: Encoder, *, rows: int) -> Iterator[int | TokenCounts]:
    """Yields the documents done so far, and at last the counts. Memory holds a batch of documents.

    `rows`: V, the rows of the embedding; no id is beyond it.
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
    """The counts of all shares together."""
    return TokenCounts(
        torch.stack([part.tokens_V for part in parts]).sum(0),
        documents=sum(part.documents for part in parts),
        bytes=sum(part.bytes for part in parts),
    )


def batches(documents: Iterable[str], *, characters: int) -> Iterator[list[str]]:
    """Documents in their order, so many characters at a time; a longer one by itself."""
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
