"""The documents of a training: its data, its curve, and the order in which its steps take sequences.

A step's sequences depend on its number alone, so that any number of workers, and any attempt, trains on the
same data in the same order.
"""

import random
from collections.abc import Sequence
from functools import lru_cache
from typing import Literal

from pydantic import Field

from pipeline.canonical import Frozen


class Shard(Frozen):
    """One file of training sequences."""

    path: str
    sequences: int


class TokensIndex(Frozen):
    """Content of `tokens.json`. `read_tokens`: all tokens of the text, held-out and unused ones too."""

    sequence_length: int
    sequences: int
    validation_sequences: int
    shards: tuple[Shard, ...]
    read_tokens: int
    text_digest: str


class StepRecord(Frozen):
    """One optimizer step. `step` counts finished steps from 1.

    `loss`: mean over the step's sequences of the objective, in nats; `language_modelling_loss`: its
    cross-entropy part. `gradient_norm`: before clipping, of all trained parameters. `first_sequence` and
    `end_sequence`: positions in the data order; `data_checksum`: sum of the CRC-32 of the sequences that the
    workers really took, modulo 2^32. `zeros`: zeros among the weights under a keep tensor, at the last check.
    `memory_bytes`, `gpu_memory_bytes`: memory of the worker that needed most. `started`: number of times that
    training had been started when the step was done.
    """

    step: int
    loss: float
    language_modelling_loss: float
    learning_rate: float
    gradient_norm: float
    tokens_per_second: float
    first_sequence: int
    end_sequence: int
    data_checksum: int
    workers: int
    zeros: int | None = None
    memory_bytes: int | None = None
    gpu_memory_bytes: int | None = None
    loss_scale: float | None = None
    skipped: bool = False
    started: int = 1


class Validation(Frozen):
    """Mean cross-entropy on the held-out sequences after `step` steps; step 0 is before training."""

    step: int
    loss: float
    perplexity: float


class KeepUpdate(Frozen):
    """The changes that a dynamic or gradual rule made after a step, summed over all linears."""

    step: int
    dropped: int
    grown: int
    zeros: int


class BlockFit(Frozen):
    """Reconstruction of one block: squared distance to the dense block's output, relative to its square,
    before and after. Recovery training sums both over all tokens before it divides; pruning takes the mean of
    the tokens' ratios."""

    block: int
    before: float
    after: float


class BlockFits(Frozen):
    """Content of `reconstruction.json`."""

    blocks: tuple[BlockFit, ...]


class BlockMasks(Frozen):
    """The masks of one block while they are learned, over all groups of its linears. A group's mask is drawn
    from softmax(scale · logits). `entropy`: mean entropy of this distribution in nats; `certainty`: mean of
    its largest probability. `changed`: share of groups whose likeliest mask is another one than before
    training."""

    entropy: float
    certainty: float
    changed: float


class MaskRecord(Frozen):
    """The state of the masks after `step` steps; step 0 is before training."""

    step: int
    temperature: float
    scale: float
    blocks: tuple[BlockMasks, ...]


class Curve(Frozen):
    """Content of `curve.json`. `deepspeed`: the configuration that the typed fields became, per start.

    `stopped`: the reason why training ended: all steps were done, or it stopped early. `result_step`: the
    step after which the published weights were taken.
    """

    steps: tuple[StepRecord, ...] = ()
    validations: tuple[Validation, ...] = ()
    updates: tuple[KeepUpdate, ...] = ()
    blocks: tuple[BlockFit, ...] = ()
    masks: tuple[MaskRecord, ...] = ()
    total_steps: int
    result_step: int
    stopped: Literal["finished", "early"] = "finished"
    deepspeed: dict[str, object] = Field(default_factory=dict)
    starts: int = 1


def position_of(sequence: int, shards: Sequence[int], *, seed: int) -> tuple[int, int]:
    """The shard and row of the `sequence`-th sequence in the data order. `shards`: the rows of each shard.

    The first epoch reads the shards as they were written, which is shuffled already; later ones shuffle the
    shards, and the rows within each.
    """
    epoch, rest = divmod(sequence, sum(shards))
    order = _shuffled(len(shards), f"{seed} {epoch}") if epoch else range(len(shards))
    for shard in order:
        if rest < shards[shard]:
            break
        rest -= shards[shard]
    return shard, _shuffled(shards[shard], f"{seed} {epoch} {shard}")[rest] if epoch else rest


@lru_cache(maxsize=16)
def _shuffled(count: int, seed: str) -> tuple[int, ...]:
    """A shuffled order. It is cached, because a step asks for sequences of the same shard one by one."""
    order = list(range(count))
    random.Random(seed).shuffle(order)
    return tuple(order)
