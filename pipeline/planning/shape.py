"""The sizes of a model that its time and memory follow from, counted from its config.json."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from pydantic import JsonValue

from pipeline.architecture.row import Architecture
from pipeline.structure.sizes import Sizes, has_experts
from pipeline.structure.widths import in_decoder, kind_of_block, widths_outside_of_experts


@dataclass(frozen=True)
class Group:
    """Linears that share an input. `in_features`: its width; `out_features`: of each linear; `share`: the
    part of all tokens that pass through (below 1 for an expert); `count`: such groups in the block."""

    in_features: int
    out_features: tuple[int, ...]
    share: float = 1.0
    count: int = 1

    @property
    def weights(self) -> int:
        """The number of weights of one such group."""
        return self.in_features * sum(self.out_features)


@dataclass(frozen=True)
class BlockShape:
    """One decoder block: its groups of prunable linears, and the width of its attention's queries."""

    groups: tuple[Group, ...]
    query: int

    @cached_property
    def weights(self) -> int:
        """The number of prunable weights. Norms, biases and routers are negligible."""
        return sum(group.weights * group.count for group in self.groups)

    @cached_property
    def active(self) -> float:
        """The number of weights that a token meets."""
        return sum(group.weights * group.count * group.share for group in self.groups)

    @cached_property
    def largest(self) -> Group:
        """The group whose solver needs the most memory."""
        return max(self.groups, key=lambda group: (group.in_features, max(group.out_features)))

    @cached_property
    def widest(self) -> int:
        """The most numbers that a token has as the input of one group."""
        return max(group.in_features for group in self.groups)

    def flop(self, tokens: int, *, length: int) -> float:
        """The FLOP of a forward pass: two per weight and token, and attention's two products, of which causal
        attention computes half."""
        return tokens * (2 * self.active + 2 * length * self.query)


@dataclass(frozen=True)
class ModelShape:
    """A model: its blocks, and the table of embeddings, which the head shares if it is `tied`. `state`: the
    numbers of a token that go from block to block (checkpoint/states.py)."""

    blocks: tuple[BlockShape, ...]
    hidden: int
    state: int
    vocabulary: int
    tied: bool

    @cached_property
    def embedding(self) -> int:
        """The number of weights of the table of embeddings."""
        return self.hidden * self.vocabulary

    @cached_property
    def weights(self) -> int:
        """The number of weights of the model."""
        return sum(block.weights for block in self.blocks) + self.embedding * (1 if self.tied else 2)

    @cached_property
    def active(self) -> float:
        """The number of weights that a token is multiplied with."""
        return sum(block.active for block in self.blocks) + self.embedding


def shape_of(row: Architecture, config: Mapping[str, JsonValue], sizes: Sizes) -> ModelShape:
    """The shape of a model of `sizes`. `config`: tells which blocks have experts, and how many of them a
    token meets."""
    per_token = row.read(config, "num_experts_per_tok")
    each = per_token if isinstance(per_token, int) else 1
    kinds: dict[tuple[bool, bool, str | None], BlockShape] = {}
    blocks = []
    for block in range(sizes.num_hidden_layers):
        written = in_decoder(row, config, sizes, block)
        kind = (written, has_experts(row, config, block), kind_of_block(row, config, block))
        if kind not in kinds:
            kinds[kind] = _block(row, config, sizes, block=block, per_token=each)
        blocks.append(kinds[kind])
    return ModelShape(
        blocks=tuple(blocks),
        hidden=sizes.hidden_size,
        state=_state(row, config, sizes),
        vocabulary=sizes.vocab_size,
        tied=bool(row.read(config, "tie_word_embeddings")),
    )


def _state(row: Architecture, config: Mapping[str, JsonValue], sizes: Sizes) -> int:
    """The numbers of a token that go from block to block. Keys and values are counted for two kinds of
    attention with the same heads."""
    if row.beside is None:
        return sizes.hidden_size
    width = row.read(config, row.beside.width)
    streams = None if row.beside.streams is None else row.read(config, row.beside.streams)
    inputs = sizes.num_hidden_layers * width if isinstance(width, int) else 0
    shared = 4 * sizes.num_key_value_heads * sizes.head_dim if config.get("num_kv_shared_layers") else 0
    return sizes.hidden_size * (streams if isinstance(streams, int) else 1) + inputs + shared


def _block(
    row: Architecture, config: Mapping[str, JsonValue], sizes: Sizes, *, block: int, per_token: int
) -> BlockShape:
    groups = [Group(*widths) for widths in widths_outside_of_experts(row, config, sizes, block)]
    inner, count = sizes.moe_intermediate_size, sizes.num_experts
    if has_experts(row, config, block) and inner is not None and count is not None:
        share = min(per_token / count, 1.0)
        groups.append(Group(sizes.hidden_size, (inner, inner), share, count))
        groups.append(Group(inner, (sizes.hidden_size,), share, count))
    return BlockShape(tuple(groups), query=sizes.num_attention_heads * sizes.head_dim)
