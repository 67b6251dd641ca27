"""The sizes of a model: read from its config.json, and written into that of a smaller one."""

from collections.abc import Mapping, Sequence
from reprlib import Repr
from typing import get_args

from pydantic import JsonValue

from pipeline.architecture.axes import Size
from pipeline.architecture.row import Architecture
from pipeline.canonical import Frozen
from pipeline.errors import InvalidSpec, UnsupportedCheckpoint

LARGEST = 1 << 25  # of any size: far above what exists, and far below what would fill memory by being counted
MOST_BLOCKS = 10_000
SHORT = Repr()  # of values from outside, which may be long
_HEAD_DIM = {  # the field of each kind of row; a head that has parts goes by the one that positions turn
    "free": "head_dim",
    "divides": "head_dim",
    "parts": "qk_rope_head_dim",
}
FOUR = 4  # FFN channels for each hidden one, if config.json does not state them


class Sizes(Frozen):
    """The sizes under the names of Llama's config.json, whatever the model type calls them. None: the type
    has no such size."""

    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    vocab_size: int
    intermediate_size: int | None = None
    moe_intermediate_size: int | None = None
    shared_expert_intermediate_size: int | None = None
    num_experts: int | None = None

    @property
    def heads_per_group(self) -> int:
        """The number of query heads that share a key-value head."""
        return self.num_attention_heads // self.num_key_value_heads


def sizes_of(row: Architecture, config: Mapping[str, JsonValue]) -> Sizes:
    """Returns the sizes that transformers' class reads from config.json. Raises UnsupportedCheckpoint."""
    known = {size: _read(row, config, name) for size, name in row.sizes.items()}
    hidden, heads = _required(row, known, "hidden_size"), _required(row, known, "num_attention_heads")
    groups = known.get("num_key_value_heads") or heads
    if not has_groups(row, config):
        groups = 1 if row.one_key_value and config.get(row.one_key_value, True) else heads
    if heads % groups:
        raise UnsupportedCheckpoint(
            f"config.json: {heads} attention heads do not divide into {groups} key-value heads",
            "spec.model.source",
        )
    head_dim = _read(row, config, _HEAD_DIM[row.head_dim]) if row.head_dim in _HEAD_DIM else None
    inner = known.get("moe_intermediate_size")
    shared = known.get("shared_expert_intermediate_size")
    if row.shared_experts is not None and inner is not None:
        shared = inner * (_checked(row.read(config, row.shared_experts), row.shared_experts, least=0) or 0)
    return Sizes(
        hidden_size=hidden,
        num_hidden_layers=sum(stack_sizes(row, config)),
        num_attention_heads=heads,
        num_key_value_heads=groups,
        head_dim=head_dim or hidden // heads,
        vocab_size=_required(row, known, "vocab_size"),
        intermediate_size=known.get("intermediate_size") or (FOUR * hidden if row.experts is None else None),
        moe_intermediate_size=inner,
        shared_expert_intermediate_size=shared,
        num_experts=known.get("num_experts"),
    )


def stack_sizes(row: Architecture, config: Mapping[str, JsonValue]) -> tuple[int, ...]:
    """Returns the number of blocks of each stack, in the order of `row.stacks`. Raises
    UnsupportedCheckpoint."""
    first, *others = (_read(row, config, count) for _, count in row.stacks)
    if first is None:
        raise UnsupportedCheckpoint(f"config.json has no {row.stacks[0][1]}", "spec.model.source")
    return (first, *(first if count is None else count for count in others))


def prefixes(row: Architecture, config: Mapping[str, JsonValue]) -> tuple[str, ...]:
    """Returns what the names of each block's parameters begin with, such as `model.layers.3.`."""
    counts = zip(row.stacks, stack_sizes(row, config), strict=True)
    return tuple(f"{stack}.{number}." for (stack, _), count in counts for number in range(count))


def staying_by_stack(
    row: Architecture, config: Mapping[str, JsonValue], blocks: Sequence[int]
) -> tuple[int, ...]:
    """Returns how many of `blocks`, which stay, each stack has. Raises InvalidSpec where a stack would have
    none."""
    found = []
    first = 0
    for (stack, _), count in zip(row.stacks, stack_sizes(row, config), strict=True):
        end = first + count
        left = sum(first <= block < end for block in blocks)
        if not left:
            raise InvalidSpec(
                f"structure.drop_blocks leaves nothing of {stack}, blocks {first} to {end - 1}; keep one",
                "spec.structure.drop_blocks",
            )
        found.append(left)
        first = end
    return tuple(found)


def has_groups(row: Architecture, config: Mapping[str, JsonValue]) -> bool:
    """Tells whether config.json may state the number of key-value heads."""
    return "num_key_value_heads" in row.sizes and (row.grouped is None or bool(config.get(row.grouped)))


def expert_groups(row: Architecture, config: Mapping[str, JsonValue]) -> int:
    """Returns the number of contiguous groups of experts that a router chooses from first (DeepSeek's
    `n_group`); 1 if it chooses among all experts."""
    return (_read(row, config, "n_group") or 1) if row.experts is not None else 1


def resized(
    row: Architecture, config: Mapping[str, JsonValue], new: Sizes, blocks: Sequence[int]
) -> dict[str, JsonValue]:
    """Returns the config.json of a model with `new` sizes that keeps `blocks` of the old one, by number.
    `config`: must have every field that its class derives, such as `layer_types`. A size that is stated under
    several names changes under all of them."""
    old = sizes_of(row, config)
    changed: dict[str, JsonValue] = dict(config)
    for size in get_args(Size):
        if size not in row.sizes or getattr(new, size) is None:
            continue
        value = getattr(new, size)
        if size == "num_key_value_heads" and not has_groups(row, config):
            value = new.num_attention_heads  # Falcon has the field even where it is not read
        changed |= dict.fromkeys(row.stated(config, row.sizes[size]), value)
    if row.decoder is not None:
        changed |= _by_stack(row, config, blocks)
    for field in row.follows_hidden:
        if config.get(field) in (None, old.hidden_size):
            changed[field] = new.hidden_size
    for field in row.follows_vocabulary:
        if config.get(field) == old.vocab_size:
            changed[field] = new.vocab_size
    if row.head_dim in ("free", "divides") and (new.hidden_size, new.num_attention_heads) != (
        old.hidden_size,
        old.num_attention_heads,
    ):
        changed["head_dim"] = new.head_dim
    if list(blocks) != list(range(old.num_hidden_layers)):
        changed |= _by_block(row, config, blocks)
    per_token = _read(row, config, "num_experts_per_tok")
    if per_token is not None and new.num_experts is not None:
        changed["num_experts_per_tok"] = min(per_token, new.num_experts)
    return changed


def _by_stack(
    row: Architecture, config: Mapping[str, JsonValue], blocks: Sequence[int]
) -> dict[str, JsonValue]:
    """Returns the fields with the number of blocks of each stack."""
    counts = zip(row.stacks, staying_by_stack(row, config, blocks), strict=True)
    return {name: left for (_, field), left in counts for name in row.stated(config, field)}


def _by_block(
    row: Architecture, config: Mapping[str, JsonValue], blocks: Sequence[int]
) -> dict[str, JsonValue]:
    """Returns the fields that refer to blocks by their numbers, or by how many there are."""
    changed: dict[str, JsonValue] = {}
    for field in row.by_block:
        values = config.get(field)
        if isinstance(values, list):
            changed[field] = [values[block] for block in blocks]
        elif isinstance(values, str):
            changed[field] = "".join(values[block] for block in blocks)
    for field in row.numbered:
        changed |= _renumbered(field, config.get(field), blocks)
    first_sliding = _number(config, "max_window_layers", least=0)
    if first_sliding is not None:
        changed["max_window_layers"] = sum(block < first_sliding for block in blocks)
    first_mixture = _first_mixture(row, config)
    if first_mixture is not None:
        changed["first_k_dense_replace"] = sum(block < first_mixture for block in blocks)
    if "mlp_only_layers" in config or "decoder_sparse_step" in config:
        dense = [new for new, block in enumerate(blocks) if not has_experts(row, config, block)]
        changed |= {"decoder_sparse_step": 1, "mlp_only_layers": list[JsonValue](dense)}
    return changed


def _renumbered(field: str, value: JsonValue, blocks: Sequence[int]) -> dict[str, JsonValue]:
    """Returns a field that lists numbers of blocks, or has them as keys, with the numbers after a cut."""
    if isinstance(value, list):
        return {field: [new for new, block in enumerate(blocks) if block in value]}
    if isinstance(value, dict):
        of_block = {int(number): one for number, one in value.items()}
        return {field: {str(new): of_block[block] for new, block in enumerate(blocks) if block in of_block}}
    return {}


def has_experts(row: Architecture, config: Mapping[str, JsonValue], block: int) -> bool:
    """Tells whether a block's MLP is a mixture, by the fields of Qwen's, DeepSeek's, GLM's and Nemotron's
    mixtures."""
    if row.experts is None:
        return False
    kinds = config.get("mlp_layer_types") or config.get("layers_block_type")
    kinds = kinds or config.get("hybrid_override_pattern")
    if isinstance(kinds, list | str):
        return kinds[block] in ("sparse", "moe", "E")
    ordinary = config.get("mlp_only_layers") or []
    assert isinstance(ordinary, list), "transformers' class has read it"
    first = _first_mixture(row, config) or 0
    often = _number(config, "decoder_sparse_step") or _number(config, "interleave_moe_layer_step") or 1
    return block >= first and block not in ordinary and (block + 1) % often == 0


def _first_mixture(row: Architecture, config: Mapping[str, JsonValue]) -> int | None:
    """Returns the number of ordinary blocks before the mixtures, where the type has such a field."""
    field = "first_k_dense_replace"
    return _checked(row.read(config, field), field, least=0)


def _required(row: Architecture, known: Mapping[Size, int | None], size: Size) -> int:
    value = known.get(size)
    if value is None:
        raise UnsupportedCheckpoint(f"config.json has no {row.sizes[size]}", "spec.model.source")
    return value


def _read(row: Architecture, config: Mapping[str, JsonValue], name: str) -> int | None:
    most = MOST_BLOCKS if name in (count for _, count in row.stacks) else LARGEST
    return _checked(row.read(config, name), row.stated(config, name)[0], most=most)


def _number(config: Mapping[str, JsonValue], name: str, *, least: int = 1) -> int | None:
    return _checked(config.get(name), name, least=least)


def _checked(value: JsonValue, name: str, *, least: int = 1, most: int = LARGEST) -> int | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise UnsupportedCheckpoint(
            f"{name} in config.json must be a number from {least} to {most}, got {SHORT.repr(value)}",
            "spec.model.source",
        )
    return value
