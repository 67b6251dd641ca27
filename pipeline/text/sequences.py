"""Turns documents into training sequences: one row of tokens, each document ended by EOS, cut without
padding.

Shapes: N sequences, L sequence_length.
"""

import hashlib
import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from pipeline.errors import InvalidSpec, TextTooShort
from pipeline.spec.training_recipe import TrainingText
from pipeline.text.tokens import Tokenizer, begin_token

SHUFFLED = 4096  # sequences that are shuffled together: a shard
SHARD_BYTES = 64 * 1024 * 1024


@dataclass
class Row:
    """The row of a text while it is read: the number of tokens read so far, and the digest of their
    documents."""

    text: TrainingText
    tokenizer: Tokenizer
    read_tokens: int = 0
    digest: "hashlib._Hash" = field(default_factory=hashlib.sha256)

    def sequences(self, documents: Iterable[str]) -> Iterator[Tensor]:
        """Yields consecutive sequences, int32 [L]; reads only as far as they are consumed.

        Raises InvalidSpec when the tokenizer has no EOS, or lacks BOS that is asked for.
        """
        eos = self.tokenizer.eos_token_id
        if eos is None:
            raise InvalidSpec(
                "training text is joined with EOS, and the model's tokenizer has none; set eos_token in its "
                "tokenizer_config.json",
                "spec.recovery.text",
            )
        bos = (
            []
            if self.text.bos in (None, "none")
            else [begin_token(self.tokenizer, field="spec.recovery.text")]
        )
        front, begin = (bos, []) if self.text.bos == "every_window" else ([], bos)
        length = self.text.text_length
        row: list[int] = []
        for document in documents:
            ids = self.tokenizer(document, add_special_tokens=False, verbose=False)["input_ids"]
            row += [*begin, *ids, eos]
            self.read_tokens += len(ids) + 1
            self.digest.update(len(document).to_bytes(8, "little") + document.encode())
            whole = len(row) // length * length
            for start in range(0, whole, length):
                yield torch.tensor([*front, *row[start : start + length]], dtype=torch.int32)
            del row[:whole]


def shuffled_shards(sequences: Iterator[Tensor], text: TrainingText, *, wanted: int) -> Iterator[Tensor]:
    """Yields the next `wanted` sequences, or as many as exist, as shards int32 [N, L], each shuffled."""
    rng = random.Random(text.seed)
    most = max(1, min(SHUFFLED, SHARD_BYTES // (4 * text.sequence_length)))
    taken: list[Tensor] = []
    left = wanted
    while left:
        sequence = next(sequences, None)
        if sequence is not None:
            taken.append(sequence)
            left -= 1
        if taken and (len(taken) == most or sequence is None or not left):
            rng.shuffle(taken)
            yield torch.stack(taken)
            taken = []
        if sequence is None:
            return


def check_enough(text: TrainingText, *, found: int, needed: int, read_tokens: int) -> None:
    """Raises TextTooShort when `found` sequences would be repeated more often than `epochs` allows."""
    if found * text.epochs >= needed:
        return
    times = f"{-(-needed // found)} times" if found else "more often than there are sequences"
    raise TextTooShort(
        f"{text.source} gives {read_tokens} tokens: {found} training sequences of {text.text_length} "
        f"beside {text.validation_sequences} held out. The {needed} that are asked for would go through it "
        f"{times}, and epochs is {text.epochs}; use a longer text, fewer tokens, or raise epochs",
        "spec.recovery.text.epochs",
    )
