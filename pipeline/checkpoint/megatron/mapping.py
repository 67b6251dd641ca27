"""Maps parameters of Hugging Face to parameters of Megatron, and splits them over a tensor-parallel group.

The table names parameters; the rest follows from the labels of their dimensions
(pipeline/architecture/axes.py): query, key and value are interleaved by key-value group, parts with equal
labels lie one after another, and the dimension that is split among ranks is the one that counts heads, FFN
channels or tokens.

Shape legend: O out_features, I in_features, G key-value groups.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.architecture.axes import ATTENTION, MLP, NORMS, OUTER, Dimension, Labels
from pipeline.structure.sizes import Sizes

BLOCKS = "decoder.layers."  # the prefix of a block's number
LABELS: Labels = {**ATTENTION, **MLP, **NORMS, **OUTER}

_BY_GROUP: tuple[Dimension, ...] = ("query", "key_value", "key_value")
_SPLIT: frozenset[Dimension] = frozenset(("query", "key_value", "ffn", "vocabulary"))


@dataclass(frozen=True)
class Row:
    """One parameter of Megatron. `name`: its name with Transformer Engine and in `torch_dist`, inside of a
    block or in the model. `parts`: the parameters of Hugging Face that it contains, in their order. `local`:
    its name in models without Transformer Engine, if it differs."""

    name: str
    parts: tuple[str, ...]
    local: str | None = None

    @property
    def labels(self) -> tuple[tuple[Dimension, ...], ...]:
        """The labels of each part's dimensions."""
        return tuple(_labels(part) for part in self.parts)

    @property
    def by_group(self) -> bool:
        """Tells whether the parts are interleaved by key-value group."""
        return tuple(labels[0] for labels in self.labels) == _BY_GROUP

    @property
    def module(self) -> str:
        """The name of the module that owns the parameter."""
        return self.name.rpartition(".")[0]

    @property
    def is_linear(self) -> bool:
        """Tells whether the parameter is the weight of a linear."""
        return len(self.labels[0]) == 2

    @property
    def split(self) -> int | None:
        """The dimension that a tensor-parallel group splits; None if every rank has the whole parameter."""
        places = [place for place, label in enumerate(self.labels[0]) if label in _SPLIT]
        return places[0] if places else None


def _linear(name: str, *modules: str) -> tuple[Row, Row]:
    """Returns the rows of a linear's weight and, where a model has it, its bias."""
    return (
        Row(f"{name}.weight", tuple(f"{module}.weight" for module in modules)),
        Row(f"{name}.bias", tuple(f"{module}.bias" for module in modules)),
    )


INNER: tuple[Row, ...] = (
    Row(
        "self_attention.linear_qkv.layer_norm_weight",
        ("input_layernorm.weight",),
        local="input_layernorm.weight",
    ),
    *_linear("self_attention.linear_qkv", "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    Row("self_attention.q_layernorm.weight", ("self_attn.q_norm.weight",)),
    Row("self_attention.k_layernorm.weight", ("self_attn.k_norm.weight",)),
    *_linear("self_attention.linear_proj", "self_attn.o_proj"),
    Row(
        "mlp.linear_fc1.layer_norm_weight",
        ("post_attention_layernorm.weight",),
        local="pre_mlp_layernorm.weight",
    ),
    *_linear("mlp.linear_fc1", "mlp.gate_proj", "mlp.up_proj"),
    *_linear("mlp.linear_fc2", "mlp.down_proj"),
)
EMBEDDING = Row("embedding.word_embeddings.weight", ("model.embed_tokens.weight",))
OUTPUT = Row("output_layer.weight", ("lm_head.weight",))  # absent if it is tied to the embedding
NORM = Row("decoder.final_layernorm.weight", ("model.norm.weight",))

ROWS: Mapping[str, Row] = {
    **{row.name: row for row in (*INNER, EMBEDDING, NORM, OUTPUT)},
    **{row.local: row for row in INNER if row.local is not None},
}


def join(row: Row, parts: Sequence[Tensor], sizes: Sizes) -> Tensor:
    """Joins Hugging Face's parts into Megatron's whole parameter [O, ...], without padding."""
    if not row.by_group:
        return parts[0] if len(parts) == 1 else torch.cat(list(parts))
    groups = sizes.num_key_value_heads
    return torch.cat([part.unflatten(0, (groups, -1)) for part in parts], dim=1).flatten(0, 1)


def part(row: Row, whole: Tensor, number: int, sizes: Sizes) -> Tensor:
    """Returns one of Hugging Face's parts [O, ...] of Megatron's whole parameter."""
    if not row.by_group:
        return whole.chunk(len(row.parts))[number]
    wide = sizes.heads_per_group
    lengths = [one * sizes.head_dim for one in (wide, 1, 1)]
    grouped = whole.unflatten(0, (sizes.num_key_value_heads, -1))
    return grouped.split(lengths, dim=1)[number].flatten(0, 1)


def share(row: Row, whole: Tensor, *, rank: int, ranks: int) -> Tensor:
    """Returns one rank's share of a whole parameter: whole key-value groups, and a piece of each of the parts
    that lie one after another. `ranks` must divide the split dimension."""
    if row.split is None:
        return whole
    return torch.cat([half.chunk(ranks, dim=row.split)[rank] for half in _halves(row, whole)], dim=row.split)


def merged(row: Row, shares: Sequence[Tensor]) -> Tensor:
    """Merges the shares of all ranks, in their order, into the whole parameter. It is the inverse of
    `share`."""
    if row.split is None or len(shares) == 1:
        return shares[0]
    by_half = zip(*(_halves(row, one) for one in shares), strict=True)
    return torch.cat([piece for half in by_half for piece in half], dim=row.split)


def shape_of(row: Row, number: int, sizes: Sizes) -> tuple[int, ...]:
    """Returns the shape of one of the parts in a model of these sizes."""
    lengths: dict[Dimension, int | None] = {
        "hidden": sizes.hidden_size,
        "query": sizes.num_attention_heads * sizes.head_dim,
        "key_value": sizes.num_key_value_heads * sizes.head_dim,
        "head_dim": sizes.head_dim,
        "ffn": sizes.intermediate_size,
        "vocabulary": sizes.vocab_size,
    }
    return tuple(lengths[label] or 0 for label in row.labels[number])


def whole_shape(row: Row, sizes: Sizes, *, padded_vocabulary: int) -> tuple[int, ...]:
    """Returns the shape of Megatron's whole parameter in a model of these sizes."""
    shapes = [shape_of(row, number, sizes) for number in range(len(row.parts))]
    rows = padded_vocabulary if row.labels[0][0] == "vocabulary" else sum(shape[0] for shape in shapes)
    return (rows, *shapes[0][1:])


def _halves(row: Row, tensor: Tensor) -> tuple[Tensor, ...]:
    """Returns the parts that lie one after another; parts that are interleaved by group stay one tensor."""
    return (tensor,) if row.by_group else tensor.chunk(len(row.parts))


def _labels(parameter: str) -> tuple[Dimension, ...]:
    module, _, kind = parameter.rpartition(".")
    labels = LABELS[module]
    return labels[:1] if kind == "bias" else labels
