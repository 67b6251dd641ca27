"""The parts of a model that stay: indices of the dense model's channels, heads, experts, tokens and blocks.

Every list is ascending. None means that everything stays; an empty list means that a block has no such part.
The key-value heads of a block that stay all have equally many query heads.
"""

from collections.abc import Sequence

from pydantic import Field

from pipeline.architecture.axes import BY_HEAD, Dimension
from pipeline.canonical import Frozen
from pipeline.errors import InvalidSpec
from pipeline.structure.sizes import Sizes

Places = tuple[int, ...] | None


class BlockCut(Frozen):
    """The parts of block `block` of the dense model that stay. `expert_ffn`: by number of the expert in the
    dense model; experts that are not listed stay whole. `merged`: by an expert that stays, the weights of the
    experts whose weighted mean takes its place (checkpoint/merging.py); they sum to 1."""

    block: int
    heads: Places = None
    key_value_heads: Places = None
    ffn: Places = None
    shared_ffn: Places = None
    experts: Places = None
    expert_ffn: dict[int, tuple[int, ...]] = Field(default_factory=dict)
    merged: dict[int, dict[int, float]] = Field(default_factory=dict, exclude_if=lambda merged: not merged)


class Cut(Frozen):
    """The parts of a model that stay; blocks in their order."""

    blocks: tuple[BlockCut, ...]
    hidden: Places = None
    vocabulary: Places = None

    @classmethod
    def whole(cls, sizes: Sizes) -> "Cut":
        """Returns the cut that keeps everything."""
        return cls(blocks=tuple(BlockCut(block=block) for block in range(sizes.num_hidden_layers)))


def sizes_after(cut: Cut, sizes: Sizes) -> Sizes:
    """Returns the sizes of the cut model. Raises InvalidSpec where blocks would differ, because a config has
    one size for all of them."""
    blocks = cut.blocks
    fields: dict[str, int | None] = {
        "hidden_size": _left([cut.hidden], sizes.hidden_size, "hidden"),
        "num_hidden_layers": len(blocks),
        "num_attention_heads": _left([b.heads for b in blocks], sizes.num_attention_heads, "heads"),
        "num_key_value_heads": _left(
            [b.key_value_heads for b in blocks], sizes.num_key_value_heads, "key_value_heads"
        ),
        "intermediate_size": _left([b.ffn for b in blocks], sizes.intermediate_size, "ffn"),
        "shared_expert_intermediate_size": _left(
            [b.shared_ffn for b in blocks], sizes.shared_expert_intermediate_size, "shared_ffn"
        ),
        "num_experts": _left([b.experts for b in blocks], sizes.num_experts, "experts"),
        "moe_intermediate_size": _left(
            [
                b.expert_ffn.get(expert)
                for b in blocks
                for expert in (range(sizes.num_experts or 0) if b.experts is None else b.experts)
            ],
            sizes.moe_intermediate_size,
            "expert_ffn",
        ),
        "vocab_size": _left([cut.vocabulary], sizes.vocab_size, "vocabulary"),
    }
    return sizes.model_copy(update=fields)


def _left(places: Sequence[Places], size: int | None, what: str) -> int | None:
    counts = {size if one is None else len(one) for one in places if one != ()}
    if len(counts) > 1:
        raise InvalidSpec(f"blocks would keep {sorted(map(str, counts))} {what}; keep equally many in each")
    return counts.pop() if counts else size


def staying(
    dimension: Dimension, cut: Cut, block: BlockCut | None, sizes: Sizes, *, length: int, expert: int | None
) -> Sequence[int] | None:
    """Returns those of the `length` indices of a stored dimension that stay, in their order; None for all.
    `sizes`: the dense model's. `expert`: the expert to which the matrix belongs."""
    if dimension == "hidden" or (dimension == "embedding" and length == sizes.hidden_size):
        return cut.hidden
    if dimension == "vocabulary":
        return cut.vocabulary
    if block is None:
        return None
    if dimension == "query_heads":
        return block.heads
    if dimension == "key_value_heads":
        return block.key_value_heads
    if dimension in (*BY_HEAD, "key_value", "qkv", "qkv_by_group"):
        return _attention(dimension, block, sizes, length)
    if dimension == "gate_up":
        half = length // 2
        return None if block.ffn is None else [*block.ffn, *(half + channel for channel in block.ffn)]
    if dimension == "expert_ffn":
        return None if expert is None else block.expert_ffn.get(expert)
    if dimension == "expert_pairs":
        channels = None if expert is None else block.expert_ffn.get(expert)
        return None if channels is None else [2 * channel + half for channel in channels for half in (0, 1)]
    plain = {"ffn": block.ffn, "shared_ffn": block.shared_ffn, "experts": block.experts}
    return plain.get(dimension)


def _attention(dimension: Dimension, block: BlockCut, sizes: Sizes, length: int) -> Sequence[int] | None:
    """Returns the indices that stay, from slots of equal width, in the order in which a dimension of `length`
    holds them."""
    if block.heads is None and block.key_value_heads is None:
        return None
    every, groups = sizes.num_attention_heads, sizes.num_key_value_heads
    heads = tuple(range(every)) if block.heads is None else block.heads
    kept_groups = tuple(range(groups)) if block.key_value_heads is None else block.key_value_heads
    held = every + 2 * groups
    if dimension in BY_HEAD:
        slots, held = list(heads), every
    elif dimension == "key_value":
        slots, held = list(kept_groups), groups
    elif dimension == "qkv":
        slots = [*heads, *(every + group for group in kept_groups)]
        slots += [every + groups + group for group in kept_groups]
    else:
        per_group = sizes.heads_per_group
        slots = []
        for group in kept_groups:
            first = group * (per_group + 2)
            slots += [first + head - group * per_group for head in heads if head // per_group == group]
            slots += [first + per_group, first + per_group + 1]
    width = length // held
    return [slot * width + i for slot in slots for i in range(width)]
