"""Parts of a row that few model types have, such as a second stack of blocks."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from pydantic import JsonValue

Pairs = Literal["gaps"]  # how a text becomes what an encoder reads and a decoder writes
Feature = Literal[
    "recovery",
    "learned_masks",
    "reconstruction",
    "spaced",  # drop_blocks at even distances
    "self_calibration",
    "tasks",
    "behaviour",
    "target",
    "quantize",
    "sparse",  # packed weights beside the ordinary ones
    "megatron",
    "float16",
]


@dataclass(frozen=True)
class Beside:
    """What a type's blocks read beside the hidden states of the block before (checkpoint/states.py).

    `inputs`: the place of an argument, counted after the hidden states, with which each block gets a tensor
    of its own for every token; `width`: the field of config.json with that tensor's channels; `table`: the
    embedding of tokens that it is made from. `shared`: the argument through which a block hands its keys and
    values to later ones. `streams`: the field with the number of hidden states that a token has; None for
    one.
    """

    inputs: int
    width: str
    table: str
    shared: str
    streams: str | None = None


@dataclass(frozen=True)
class Ahead:
    """Blocks that predict tokens further ahead, which checkpoints store and transformers' class of the type
    does not read. `field`: their number in config.json. `prefix`: the beginning of their tensors' names; None
    if they are numbered on after the last block."""

    field: str
    prefix: str | None = None


@dataclass(frozen=True)
class Decoder:
    """The second stack of blocks of a type whose first stack, `Architecture.blocks`, is an encoder.

    `blocks`: its place in the model. `count`: the field of config.json with the number of its blocks; the
    class takes that of the encoder where it is left out. `entering`: the norm through which the encoder's
    outputs reach the cross-attention of every decoder block. `shared_bias`: the attention in the first block
    of each stack whose relative positions all blocks of the stack add to their scores; None where each block
    has its own. `encoder_only`, `decoder_only`: what the names of linears begin with that only blocks of one
    stack have. `gate`: the field of config.json that begins with `gated` if the MLP has a gate, and what the
    class takes where it is left out; `with_gate`, `without_gate`: what the names of linears end with that
    only such models, or only others, have.
    """

    blocks: str
    count: str
    entering: str
    encoder_only: tuple[str, ...]
    decoder_only: tuple[str, ...]
    gate: tuple[str, str]
    with_gate: tuple[str, ...]
    without_gate: tuple[str, ...]
    shared_bias: str | None = None

    @property
    def bias(self) -> str | None:
        """The tensor that has to be in the first block of each stack, by its name inside the block."""
        return None if self.shared_bias is None else f"{self.shared_bias}.relative_attention_bias.weight"

    def has(self, linear: str, config: Mapping[str, JsonValue], *, in_decoder: bool) -> bool:
        """Tells whether the blocks of a stack of the model with this config.json have a linear that the row
        lists."""
        gated = str(config.get(*self.gate)).startswith("gated")
        elsewhere = self.encoder_only if in_decoder else self.decoder_only
        other_kind = self.without_gate if gated else self.with_gate
        return not linear.startswith(elsewhere) and not linear.endswith(other_kind)
