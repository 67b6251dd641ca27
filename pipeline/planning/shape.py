"""The sizes of a model that its time and memory follow from, counted from its config.json."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from pydantic import JsonValue

from pipeline.architecture.axes import Dimension
from pipeline.architecture.row import Architecture, Decoder
from pipeline.structure.sizes import Sizes, has_experts, stack_sizes


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
    """A model: its blocks, and the table of embeddings, which the head shares if it is `tied`."""

    blocks: tuple[BlockShape, ...]
    hidden: int
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
    if row.decoder is None:
        kinds = {
            experts: _block(row, row.linears, sizes, experts=experts, per_token=each)
            for experts in (False, True)
        }
        blocks = tuple(kinds[has_experts(row, config, b)] for b in range(sizes.num_hidden_layers))
    else:
        blocks = _stacks(row, row.decoder, config, sizes)
    return ModelShape(
        blocks=blocks,
        hidden=sizes.hidden_size,
        vocabulary=sizes.vocab_size,
        tied=bool(row.read(config, "tie_word_embeddings")),
    )


def _stacks(
    row: Architecture, decoder: Decoder, config: Mapping[str, JsonValue], sizes: Sizes
) -> tuple[BlockShape, ...]:
    """The blocks of both stacks. Where blocks were cut, the encoder is taken to have kept its share."""
    read, written = stack_sizes(row, config)
    shapes = []
    for in_decoder in (False, True):
        groups = tuple(group for group in row.linears if decoder.has(group[0], config, in_decoder=in_decoder))
        shapes.append(_block(row, groups, sizes, experts=False, per_token=1))
    left = round(sizes.num_hidden_layers * read / (read + written))
    return (shapes[0],) * left + (shapes[1],) * (sizes.num_hidden_layers - left)


def _block(
    row: Architecture, groups_of: Sequence[Sequence[str]], sizes: Sizes, *, experts: bool, per_token: int
) -> BlockShape:
    widths = _widths(sizes)
    groups = []
    for linears in groups_of:
        labels = [_labels(row, name) for name in linears]
        if any(label not in widths for pair in labels for label in pair):
            continue  # blocks of this model have no such linears
        if experts and any("ffn" in pair for pair in labels):
            continue  # experts take the place of the ordinary MLP
        if not experts and any("shared_ffn" in pair for pair in labels):
            continue
        groups.append(Group(widths[labels[0][1]], tuple(widths[out] for out, _ in labels)))
    if experts and sizes.num_experts is not None and sizes.moe_intermediate_size is not None:
        inner, count = sizes.moe_intermediate_size, sizes.num_experts
        share = min(per_token / count, 1.0)
        groups.append(Group(sizes.hidden_size, (inner, inner), share, count))
        groups.append(Group(inner, (sizes.hidden_size,), share, count))
    return BlockShape(tuple(groups), query=sizes.num_attention_heads * sizes.head_dim)


def _labels(row: Architecture, linear: str) -> tuple[Dimension, Dimension]:
    """The labels of a linear's out_features and in_features."""
    first, second = row.inner[linear]
    return (second, first) if row.transposed else (first, second)


def _widths(sizes: Sizes) -> dict[Dimension, int]:
    query = sizes.num_attention_heads * sizes.head_dim
    key_value = sizes.num_key_value_heads * sizes.head_dim
    found: dict[Dimension, int | None] = {
        "hidden": sizes.hidden_size,
        "query": query,
        "key_value": key_value,
        "qkv": query + 2 * key_value,
        "qkv_by_group": query + 2 * key_value,
        "ffn": sizes.intermediate_size,
        "gate_up": None if sizes.intermediate_size is None else 2 * sizes.intermediate_size,
        "shared_ffn": sizes.shared_expert_intermediate_size,
    }
    return {label: width for label, width in found.items() if width is not None}
