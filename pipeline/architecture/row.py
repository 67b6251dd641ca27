"""The structure of a row of pipeline/architecture/rows.py, and the facts that follow from it."""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Literal

from pydantic import JsonValue

from pipeline.architecture.axes import Dimension, Labels, Size
from pipeline.architecture.config_names import CONFIG_NAMES, ConfigNames
from pipeline.architecture.encoder_decoder_config_names import ENCODER_DECODER_CONFIG_NAMES
from pipeline.architecture.hybrid_config_names import HYBRID_CONFIG_NAMES
from pipeline.architecture.own_config_names import OWN_CONFIG_NAMES
from pipeline.architecture.parts import Ahead, Beside, Decoder, Feature, Pairs
from pipeline.errors import UnsupportedCheckpoint

_NUMBER = re.compile(r"\.\d+$")


@dataclass(frozen=True)
class Experts:
    """The experts of a block. `module`: their place in the block; `stored`: the prefix of an expert's number
    in the names of its matrices, which checkpoints store one by one (checkpoint/experts.py). `gate`, `up`,
    `down`: the names after the number; `gate` is None where experts have none.

    `interleaved`: gate and up are one matrix whose output features take turns, weights are stored
    [in_features, out_features], linears have biases, and checkpoints store the experts of a block in one
    tensor. `scaled`: the same without biases, and the gate lies in front of the other half; the module gets
    the tokens of one expert after the other, times the router's weights, with zeros for tokens that are not
    the expert's. `before`: the beginnings of the names of a block's linears that run after its experts.
    """

    module: str = "mlp.experts"
    stored: str = "mlp.experts"
    gate: str | None = "gate_proj"
    up: str = "up_proj"
    down: str = "down_proj"
    interleaved: bool = False
    scaled: bool = False
    before: tuple[str, ...] = ()

    @property
    def together(self) -> bool:
        """Tells whether gate and up are one matrix, and the experts of a block one stored tensor."""
        return self.interleaved or self.scaled

    def entering(self, expert: int) -> tuple[str, ...]:
        """Returns an expert's linears whose inputs are its tokens."""
        if self.together:
            return (f"{self.stored}.{expert}.gate_up_proj",)
        names = (self.up,) if self.gate is None else (self.gate, self.up)
        return tuple(f"{self.stored}.{expert}.{name}" for name in names)

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


Format = Literal["mxfp4", "fp8"]


@dataclass(frozen=True)
class Fixed:
    """Sizes that a cut leaves as they are, and why. `where`: the flag of config.json without which they may
    change; None for every model of the type. `unsaid`: what transformers' class takes for that field where
    config.json lacks it. `varies`: some tensors are wider or
    narrower than these sizes of config.json say."""

    sizes: tuple[Size, ...]
    why: str
    where: str | None = None
    unsaid: int = 0
    varies: bool = False

    def holds(self, config: Mapping[str, JsonValue]) -> bool:
        """Tells whether the sizes of the model with this config.json are fixed."""
        return self.where is None or bool(config.get(self.where, self.unsaid))


@dataclass(frozen=True)
class Architecture:
    """One model type.

    `linears`: groups of linears of a block that have the same input whatever the config says, in the order in
    which they run; one statistic serves a group. `transposed`: weights of linears are stored [in_features,
    out_features] (GPT-2's Conv1D). `experts`: further linears, in blocks that have them; routers are never
    pruned. `renamed`: a part of the module's name and its counterpart in the checkpoint, if they differ.
    `in_tuple`: a block returns its hidden states as the first item of a tuple. `beside`: what the blocks read
    beside hidden states.

    `inner`, `outer`: labels of the dimensions of every parameter, by module (pipeline/architecture/axes.py).
    The modules of a list share the labels under the list's name.
    `sizes`: their names in config.json. `positions_key`: the name of the longest sequence length in
    config.json. `head_dim`: `free` if config.json may state it whatever the other sizes are, `divides` if in
    addition the heads must divide hidden_size, `tied` if it is hidden_size / heads, `parts` if heads consist
    of parts whose fields no cut changes. `follows_hidden`: fields that change with hidden_size if they equal
    it; `follows_vocabulary`: those that do with vocab_size. `grouped`: the flag without which there are no
    key-value groups; `one_key_value`: the flag that then selects a single key-value head. `fixed`: sizes that
    cannot be cut. `by_block`: fields of config.json that have a value, or a letter, for each block.
    `numbered`: fields that list numbers of blocks, or have such numbers as keys. `widths`: of dimensions that
    the sizes do not tell, as a sum of products of fields of config.json. `shared_experts`: the field that
    says how many times the FFN of an expert the shared one has. `kinds`: by kind of block, as `layer_types`
    of config.json calls it, the beginning of the names of linears that blocks of other kinds lack.

    `ahead`: stored blocks that are not read. `quantized`: formats in which checkpoints of the type are
    published, and from which they are read dequantized. `not_adapted`: linears that LoRA leaves as they are,
    because kernels of state spaces read their weights by themselves, or some models have another module
    there.

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
    beside: Beside | None = None
    positions_key: str = "max_position_embeddings"
    head_dim: Literal["free", "divides", "tied", "parts"] = "free"
    follows_hidden: tuple[str, ...] = ()
    follows_vocabulary: tuple[str, ...] = ()
    grouped: str | None = None
    one_key_value: str | None = None
    fixed: tuple[Fixed, ...] = ()
    by_block: tuple[str, ...] = ("layer_types",)
    numbered: tuple[str, ...] = ()
    bos: Literal["every_window"] | None = None
    pads_embedding: bool = True
    widths: Mapping[Dimension, tuple[tuple[str, ...], ...]] = field(default_factory=dict)
    shared_experts: str | None = None
    ahead: Ahead | None = None
    quantized: tuple[Format, ...] = ()
    kinds: Mapping[str, str] = field(default_factory=dict)
    not_adapted: tuple[str, ...] = ()
    decoder: Decoder | None = None
    lacks: Mapping[Feature, str] = field(default_factory=dict)

    @property
    def pairs(self) -> Pairs | None:
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
        names = {**CONFIG_NAMES, **OWN_CONFIG_NAMES, **HYBRID_CONFIG_NAMES, **ENCODER_DECODER_CONFIG_NAMES}
        return names.get(self.model_type, ConfigNames())

    def stated(self, config: Mapping[str, JsonValue], field: str) -> tuple[str, ...]:
        """Returns the names under which config.json states a field, the one that counts first."""
        return self.config_names.stated(config, field)

    def read(self, config: Mapping[str, JsonValue], field: str) -> JsonValue:
        """Returns what transformers' class reads for a field of config.json, which may be its default."""
        return self.config_names.read(config, field)

    @property
    def linear_names(self) -> tuple[str, ...]:
        """Every prunable linear of a block, except those of experts."""
        return tuple(dict.fromkeys(name for group in self.linears for name in group))

    def is_transposed(self, linear: str) -> bool:
        """Tells whether a linear's weight is stored [in_features, out_features]."""
        inside = self.experts is not None and self.experts.together and self.experts.owns(linear)
        return self.transposed or inside

    def entering(self, linear: str) -> Dimension:
        """Returns the label of a linear's input features."""
        first, second = self.labels(f"{linear}.weight")
        return first if self.is_transposed(linear) else second

    @property
    def adapted_names(self) -> tuple[str, ...]:
        """The linears that LoRA can adapt."""
        return tuple(name for name in self.linear_names if name not in self.not_adapted)

    @property
    def adaptable(self) -> tuple[str, ...]:
        """The names by which LoRA's linears are chosen: every linear of a block that it can adapt, and one
        for all of its experts, if they have gates and no layout of their own."""
        if self.experts is None or self.experts.gate is None or self.experts.together:
            return self.adapted_names
        return (*self.adapted_names, self.experts.stored)

    def groups_in(self, names: Collection[str]) -> tuple[tuple[str, ...], ...]:
        """Returns the groups of prunable linears of a block that stores `names`, because blocks of one model
        may differ: in groups, of which a block has those whose first linear it stores, and in the others of a
        group."""
        groups = [
            tuple(name for name in group if f"{name}.weight" in names)
            for group in self.linears
            if f"{group[0]}.weight" in names
        ]
        if self.experts is None:
            return tuple(groups)
        later = [group for group in groups if group[0].startswith(self.experts.before)]
        groups = [group for group in groups if group not in later]
        for expert in range(self.experts.count(names)):
            groups += [self.experts.entering(expert), self.experts.leaving(expert)]
        return (*groups, *later)

    def labels(self, name: str) -> tuple[Dimension, ...]:
        """Returns the label of each dimension of a parameter. `name`: inside a block, or in the model for
        parameters outside of the blocks. Raises UnsupportedCheckpoint for a parameter that the row does not
        know."""
        module, _, kind = name.rpartition(".")
        if name in self.inner:  # a parameter that is labelled by itself, such as a number without dimensions
            return self.inner[name]
        one_of_a_list = _NUMBER.sub("", module)
        known = (
            self.inner.get(one_of_a_list)
            or self.outer.get(module)
            or self.outer.get(one_of_a_list)
            or self._expert_labels(module)
        )
        if known is None:
            raise UnsupportedCheckpoint(
                f"parameter {name} of {self.model_type} has no labels in pipeline/architecture/rows.py",
                "spec.model.source",
            )
        if kind == "bias" and len(known) == 2:
            return known[1:] if self.is_transposed(module) else known[:1]
        return known

    def _expert_labels(self, module: str) -> tuple[Dimension, ...] | None:
        if self.experts is None or not self.experts.owns(module):
            return None
        leaves = module in self.experts.leaving(self.experts.number(module))
        if self.experts.together:
            pairs: Dimension = "expert_pairs" if self.experts.interleaved else "own"
            return ("expert_ffn", "hidden") if leaves else ("hidden", pairs)
        return ("hidden", "expert_ffn") if leaves else ("expert_ffn", "hidden")
