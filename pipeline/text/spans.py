"""Span corruption, which T5 and its kin are pre-trained on: the encoder reads a text with gaps, and the
decoder writes what was there (Raffel et al. 2020, section 3.1.4).

15 % of the tokens are taken out, in gaps of 3 tokens in the mean, the last of which ends the text. A sentinel
of its own marks each gap; the decoder writes every sentinel and the tokens of its gap. Both sides end with
EOS. How many gaps there are, and so how long both sides are, follows from the number of tokens alone; only
where the gaps lie is drawn.

Shape legend: T tokens of text, L tokens of a pair (pipeline/tensor/pairs.py), N samples.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count, pairwise
from typing import Protocol

import torch
from torch import Tensor

from pipeline.errors import InvalidSpec
from pipeline.tensor.pairs import joined

TAKEN_OUT = 0.15
MEAN_GAP = 3
LEAST_TOKENS = 4  # a shorter text has no gap with text around it


class Vocabulary(Protocol):
    """The part of transformers' tokenizers that finds sentinels."""

    @property
    def eos_token_id(self) -> int | None:
        """The token that ends a text."""
        ...

    def convert_tokens_to_ids(self, tokens: str) -> int | None:
        """Returns the id of a token, or that of the unknown token."""
        ...

    def convert_ids_to_tokens(self, ids: int) -> str | None:
        """Returns the text of a token."""
        ...


@dataclass(frozen=True)
class Gaps:
    """Makes pairs of texts. `sentinels`: the tokens that mark the gaps, in their order; `eos`: the one that
    ends both sides; `field`: the part of a spec that errors name."""

    sentinels: Sequence[int]
    eos: int
    field: str

    @classmethod
    def of(cls, tokenizer: Vocabulary, *, field: str) -> "Gaps":
        """Returns the gaps that a tokenizer can mark. Raises InvalidSpec where it has no sentinels or no
        EOS."""
        sentinels = []
        for number in count():
            found = _sentinel(tokenizer, number)
            if found is None:
                break
            sentinels.append(found)
        eos = tokenizer.eos_token_id
        if not sentinels or eos is None:
            lacks = "no token <extra_id_0>" if not sentinels else "no EOS"
            raise InvalidSpec(
                f"an encoder-decoder is measured on texts with gaps, and its tokenizer has {lacks} to mark "
                f"them with; use the tokenizer that belongs to the model",
                field,
            )
        return cls(tuple(sentinels), eos, field)

    def pairs(self, samples_NT: Tensor, *, seed: int) -> Tensor:
        """Returns the pairs of some texts, int64 [N, L]."""
        rng = random.Random(seed)
        return torch.stack([self.pair(tokens_T, rng) for tokens_T in samples_NT])

    def pair(self, tokens_T: Tensor, rng: random.Random) -> Tensor:
        """Returns the pair of one text, int64 [L]. Raises InvalidSpec for one that is too short."""
        total = len(tokens_T)
        if total < LEAST_TOKENS:
            raise InvalidSpec(
                f"sequence_length {total} leaves no room for a gap with text around it; use at least "
                f"{LEAST_TOKENS}",
                f"{self.field}.sequence_length".removeprefix("."),
            )
        taken = max(1, round(total * TAKEN_OUT))
        gaps = max(1, min(round(taken / MEAN_GAP), len(self.sentinels)))
        read: list[int] = []
        written: list[int] = []
        tokens = iter(tokens_T.tolist())
        kept, gone = _parts(total - taken, gaps, rng), _parts(taken, gaps, rng)
        for sentinel, stay, go in zip(self.sentinels, kept, gone, strict=False):
            read += [*(next(tokens) for _ in range(stay)), sentinel]
            written += [sentinel, *(next(tokens) for _ in range(go))]
        sides = ([*read, self.eos], [*written, self.eos])
        return joined(*(torch.tensor(side, dtype=torch.int64) for side in sides))


def _parts(total: int, parts: int, rng: random.Random) -> list[int]:
    """Splits a number into parts of at least one each."""
    edges = [0, *sorted(rng.sample(range(1, total), parts - 1)), total]
    return [end - start for start, end in pairwise(edges)]


def _sentinel(tokenizer: Vocabulary, number: int) -> int | None:
    """Returns the id of a sentinel: T5's tokens of that name, or the pieces of mT5, which begin a word."""
    for name in (f"<extra_id_{number}>", f"▁<extra_id_{number}>"):
        token = tokenizer.convert_tokens_to_ids(name)
        if token is not None and tokenizer.convert_ids_to_tokens(token) == name:
            return token
    return None
