"""Training sequences as the workers take them: the share of each worker in a step, and the tokens.

Shapes: N sequences, L tokens of each, V held-out sequences.
"""

import zlib
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from safetensors.torch import load
from torch import Tensor

from pipeline.artifacts.curve import TokensIndex, position_of
from pipeline.artifacts.refs import TokensRef
from pipeline.storage.content import ContentStore

HELD_SHARDS = 4


@dataclass(frozen=True)
class MicroBatch:
    """The sequences of one forward pass, by their number in the data order. `weight` is their share of the
    step: leftover slots hold a sequence with weight 0, so that every worker joins the same collectives."""

    indices: tuple[int, ...]
    weight: float


def share_of(
    step: int, *, rank: int, workers: int, global_batch_size: int, micro_batch_size: int
) -> list[MicroBatch]:
    """The micro-batches of one worker in a step, counted from 0. Every worker has equally many.

    A step takes sequences step·G to step·G + G - 1, where G is `global_batch_size`. Each worker has a
    contiguous share of them, and shares differ by one at most.
    """
    edges = [i * global_batch_size // workers for i in range(workers + 1)]
    longest = max(end - start for start, end in pairwise(edges))
    first = step * global_batch_size
    own = range(first + edges[rank], first + edges[rank + 1])
    batches = []
    for start in range(0, longest, micro_batch_size):
        indices = tuple(own[start : start + micro_batch_size])
        batches.append(MicroBatch(indices or (first,), len(indices) / global_batch_size))
    return batches


def checksum(tokens_NL: Tensor) -> int:
    """The sum of the CRC-32 of each sequence as little-endian int32, modulo 2^32. It does not depend on how
    the sequences are split over workers."""
    rows = tokens_NL.to(torch.int32).numpy().astype("<i4", copy=False)
    return sum(zlib.crc32(row.tobytes()) for row in rows) % 2**32


class TrainingData:
    """The sequences of a TokensRef. Memory holds a few shards, which are verified when they are read."""

    def __init__(self, content: ContentStore, tokens: TokensRef, *, seed: int) -> None:
        self._content = content
        self._tokens = tokens
        self._seed = seed
        self._shards: OrderedDict[str, Tensor] = OrderedDict()
        self.index = tokens.load(content, TokensIndex)
        self._sizes = [shard.sequences for shard in self.index.shards]

    def sequences(self, indices: Sequence[int]) -> Tensor:
        """Sequences by their number in the data order, int64 [N, L]."""
        return torch.stack([self._sequence(index) for index in indices]).to(torch.int64)

    def validation(self) -> Tensor:
        """All held-out sequences, int64 [V, L]."""
        return self._shard(TokensRef.VALIDATION).to(torch.int64)

    def _sequence(self, index: int) -> Tensor:
        shard, row = position_of(index, self._sizes, seed=self._seed)
        return self._shard(self.index.shards[shard].path)[row]

    def _shard(self, path: str) -> Tensor:
        if path in self._shards:
            self._shards.move_to_end(path)
        else:
            self._shards[path] = load(self._content.get_bytes(self._tokens.file(path)))["tokens"]
            if len(self._shards) > HELD_SHARDS:
                self._shards.popitem(last=False)
        return self._shards[path]
