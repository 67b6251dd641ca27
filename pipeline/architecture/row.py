"""The structure of a row of pipeline/architecture/rows.py, and the facts that follow from it."""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Literal

from pydantic import JsonValue

from pipeline.architecture.axes import Dimension, Labels, Size
from pipeline.architecture.config_names import CONFIG_NAMES, ConfigNames
from pipeline.errors import UnsupportedCheckpoint

_NUMBER = re.compile(r"\.\d+$")


@dataclass(frozen=True)
class Experts:
    """The experts of a block. `module`: their place in the block; `stored`: the prefix of an expert's number
    in the names of its matrices, which checkpoints store one by one (checkpoint/experts.py). `gate`, `up`,
    `down`: the names after the number."""

    module: str = "mlp.experts"
    stored: str = "mlp.experts"
    gate: str = "gate_proj"
    up: str = "up_proj"
    down: str = "down_proj"

    def entering(self, expert: int) -> tuple[str, ...]:
        """Returns an expert's linears whose inputs are its tokens."""
        return (f"{self.stored}.{expert}.{self.gate}", f"{self.stored}.{expert}.{self.up}")

    def leaving(self, expert: int) -> tuple[str, ...]:
        """Returns an expert's linears whose inputs are its inner features."""
        return (f"{self.stored}.{expert}.{self.down}",)

    def owns(self, linear: str) -> bool:
        """Tells whether a linear belongs to an expert."""
        return linear.startswith(f"{self.stored}.")

    def number(self, linear: str) -> int:
        """Returns the number of the expert that owns a linear."""
        return int(linear.removeprefix(f"{self.stored}.").partition(".")[0])

    def count(self, names: Collection[str]) -> int:
        """Returns the number of experts of a block whose tensors are `names`."""
        count = 0
        while f"{self.entering(count)[0]}.weight" in names:
            count += 1
        return count


@dataclass(frozen=True)
class Fixed:
    """Sizes that a cut leaves as they are, and why. `where`: the flag of config.json without which they may
    change; None for every model of the type."""

    sizes: tuple[Size, ...]
    why: str
    where: str | None = None

    def holds(self, config: Mapping[str, JsonValue]) -> bool:
        """Tells whether the sizes of the model with this config.json are fixed."""
        return self.where is None or bool(config.get(self.where))


Feature = Literal[
    "recovery",
    "learned_masks",
    "reconstruction",
    "spaced",  # drop_blocks at even distances
    "self_calibration",
    "tasks",
    "behaviour",
    "target",
    "sparse",  # packed weights beside the ordinary ones
    "megatron",
    "float16",
]


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


@dataclass(frozen=True)
class Architecture:
    """One model type.

    `linears`: groups of linears of a block that have the same input whatever the config says, in the order in
    which they run; one statistic serves a group. `transposed`: weights of linears are stored [in_features,
    out_features] (GPT-2's Conv1D). `experts`: further linears, in blocks that have them; routers are never
    pruned. `renamed`: a part of the module's name and its counterpart in the checkpoint, if they differ.
    `in_tuple`: a block returns its hidden states as the first item of a tuple.

    `inner`, `outer`: labels of the dimensions of every parameter, by module (pipeline/architecture/axes.py).
    The modules of a list share the labels under the list's name.
    `sizes`: their names in config.json. `positions_key`: the name of the longest sequence length in
    config.json. `head_dim`: `free` if config.json may state it whatever the other sizes are, `divides` if in
    addition the heads must divide hidden_size, `tied` if it is hidden_size / heads. `follows_hidden`: fields
    that change with hidden_size if they equal it. `grouped`: the flag without which there are no key-value
    groups; `one_key_value`: the flag that then selects a single key-value head. `fixed`: sizes that cannot be
    cut. `by_block`: fields of config.json that have a value for each block.

    `bos`: where the type needs BOS although its tokenizer does not put it there, the place that texts get by
    default (pipeline/request/bos.py). `pads_embedding`: the class takes `pad_token_id` of config.json as a
    row of its embedding, so it cannot be made with one beyond the rows.

    `decoder`: the second stack of an encoder-decoder; blocks are numbered through both, the encoder's first.
    `lacks`: what is not offered for the type, each with its reason.
    """

    model_type: str
    blocks: str
    linears: tuple[tuple[str, ...], ...]
    inner: Labels
    outer: Labels
    sizes: Mapping[Size, str]
    transposed: bool = False
    experts: Experts | None = None
    renamed: tuple[str, str] | None = None
    in_tuple: bool = False
    positions_key: str = "max_position_embeddings"
    head_dim: Literal["free", "divides", "tied"] = "free"
    follows_hidden: tuple[str, ...] = ()
    grouped: str | None = None
    one_key_value: str | None = None
    fixed: tuple[Fixed, ...] = ()
    by_block: tuple[str, ...] = ("layer_types",)
    bos: Literal["every_window"] | None = None
    pads_embedding: bool = True
    decoder: Decoder | None = None
    lacks: Mapping[Feature, str] = field(default_factory=dict)

    @property
    def pairs(self) -> Literal["gaps"] | None:
        """How texts become what an encoder reads and a decoder writes (pipeline/text/spans.py); None for
        types that read one sequence."""
        return None if self.decoder is None else "gaps"

    @property
    def stacks(self) -> tuple[tuple[str, str], ...]:
        """The lists of blocks in the order in which they run, each with the field of config.json that has the
        number of its blocks."""
        first = (self.blocks, self.sizes["num_hidden_layers"])
        return (first,) if self.decoder is None else (first, (self.decoder.blocks, self.decoder.count))

    def inside(self, name: str) -> tuple[str, str] | None:
        """Splits the name of a parameter in the model into the prefix of its block, `model.layers.3.`, and
        its name inside the block; None for a parameter outside of the blocks."""
        for stack, _ in self.stacks:
            block = re.match(rf"{re.escape(stack)}\.\d+\.", name)
            if block is not None:
                return block[0], name[block.end() :]
        return None

    @property
    def config_names(self) -> ConfigNames:
        """How transformers' class of this type reads config.json; a type without an entry reads each field
        under its own name."""
        return CONFIG_NAMES.get(self.model_type, ConfigNames())

    def stated(self, config: Mapping[str, JsonValue], field: str) -> tuple[str, ...]:
        """Returns the names under which config.json states a field, the one that counts first."""
        return self.config_names.stated(config, field)

    def read(self, config: Mapping[str, JsonValue], field: str) -> JsonValue:
        """Returns what transformers' class reads for a field of config.json, which may be its default."""
        return self.config_names.read(config, field)

    @property
    def linear_names(self) -> tuple[str, ...]:
        """Every prunable linear of a block, except those of experts."""
        return tuple(name for group in self.linears for name in group)

    def groups_in(self, names: Collection[str]) -> tuple[tuple[str, ...], ...]:
        """Returns the groups of prunable linears of a block that stores `names`, because blocks of one model
        may differ."""
        groups = [group for group in self.linears if f"{group[0]}.weight" in names]
        if self.experts is not None:
            for expert in range(self.experts.count(names)):
                groups += [self.experts.entering(expert), self.experts.leaving(expert)]
        return tuple(groups)

    def labels(self, name: str) -> tuple[Dimension, ...]:
        """Returns the label of each dimension of a parameter. `name`: inside a block, or in the model for
        parameters outside of the blocks. Raises UnsupportedCheckpoint for a parameter that the row does not
        know."""
        module, _, kind = name.rpartition(".")
        if name in self.inner:  # a parameter that is labelled by itself, such as a number without dimensions
            return self.inner[name]
        one_of_a_list = _NUMBER.sub("", module)
        known = self.inner.get(one_of_a_list) or self.outer.get(module) or self._expert_labels(module)
        if known is None:
            raise UnsupportedCheckpoint(
                f"parameter {name} of {self.model_type} has no labels in pipeline/architecture/rows.py",
                "spec.model.source",
            )
        if kind == "bias" and len(known) == 2:
            return known[1:] if self.transposed else known[:1]
        return known

    def _expert_labels(self, module: str) -> tuple[Dimension, ...] | None:
        if self.experts is None or not self.experts.owns(module):
            return None
        leaves = module in self.experts.leaving(self.experts.number(module))
        return ("hidden", "expert_ffn") if leaves else ("expert_ffn", "hidden")
