"""The linears of a block by their widths, from config.json and the row alone, without any weights."""

import math
from collections.abc import Mapping

from pydantic import JsonValue

from pipeline.architecture.axes import Dimension
from pipeline.architecture.row import Architecture
from pipeline.structure.sizes import Sizes, has_experts, stack_sizes

Widths = tuple[int, tuple[int, ...]]  # the input features of linears that share them, the outputs of each
# Of Qwen's blocks each fourth is an ordinary one, where config.json states neither kinds nor an interval.
INTERVAL = 4


def kind_of_block(row: Architecture, config: Mapping[str, JsonValue], block: int) -> str | None:
    """Returns the kind of a block, as `layer_types` of config.json calls it; None if the row knows none."""
    if not row.kinds:
        return None
    kinds = config.get("layer_types")
    if isinstance(kinds, list):
        return str(kinds[block])
    interval = config.get("full_attention_interval", INTERVAL)
    assert isinstance(interval, int), "transformers' class has read it"
    return "linear_attention" if (block + 1) % interval else "full_attention"


def in_decoder(row: Architecture, config: Mapping[str, JsonValue], sizes: Sizes, block: int) -> bool:
    """Tells whether a block of a model of `sizes` is in the second stack of an encoder-decoder. Where blocks
    were cut, the encoder is taken to have kept its share."""
    if row.decoder is None:
        return False
    read, written = stack_sizes(row, config)
    return block >= round(sizes.num_hidden_layers * read / (read + written))


def widths_outside_of_experts(
    row: Architecture, config: Mapping[str, JsonValue], sizes: Sizes, block: int
) -> tuple[Widths, ...]:
    """Returns the groups of prunable linears of a block of a model of `sizes`, without those of experts that
    tokens are routed to. Where two groups share a linear, a block has the first whose widths are known."""
    widths = dimension_widths(row, config, sizes)
    mixture, kind = has_experts(row, config, block), kind_of_block(row, config, block)
    others = tuple(prefix for name, prefix in row.kinds.items() if name != kind)
    written = in_decoder(row, config, sizes, block)
    found: list[Widths] = []
    counted: set[str] = set()
    for linears in row.linears:
        labels = [row.inner[name][::-1] if row.transposed else row.inner[name] for name in linears]
        if counted.intersection(linears) or linears[0].startswith(others or ("\0",)):
            continue
        if row.decoder is not None and not row.decoder.has(linears[0], config, in_decoder=written):
            continue  # only blocks of the other stack, or models with another MLP
        if any(label not in widths for pair in labels for label in pair):
            continue  # blocks of this model have no such linears
        if any(("ffn" in pair or "gate_up" in pair) if mixture else "shared_ffn" in pair for pair in labels):
            continue  # experts take the place of the ordinary MLP
        counted.update(linears)
        found.append((widths[labels[0][1]], tuple(widths[out] for out, _ in labels)))
    return tuple(found)


def dimension_widths(
    row: Architecture, config: Mapping[str, JsonValue], sizes: Sizes
) -> dict[Dimension, int]:
    """Returns the width of every dimension of linears that sizes and config.json tell."""
    query = sizes.num_attention_heads * sizes.head_dim
    key_value = sizes.num_key_value_heads * sizes.head_dim
    found: dict[Dimension, int | None] = {
        "hidden": sizes.hidden_size,
        "query": query,
        "gated_query": 2 * query,
        "key_value": key_value,
        "qkv": query + 2 * key_value,
        "qkv_by_group": query + 2 * key_value,
        "ffn": sizes.intermediate_size,
        "gate_up": None if sizes.intermediate_size is None else 2 * sizes.intermediate_size,
        "shared_ffn": sizes.shared_expert_intermediate_size,
    }
    stated = {name: getattr(sizes, size) for size, name in row.sizes.items()}
    for dimension, products in row.widths.items():
        factors = [[stated.get(name, row.read(config, name)) for name in names] for names in products]
        known = [[one for one in some if isinstance(one, int)] for some in factors]
        found[dimension] = sum(map(math.prod, known)) if known == factors else None
    return {label: width for label, width in found.items() if width is not None}
