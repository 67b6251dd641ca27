"""How many weights a model has, by its sizes alone."""

from collections.abc import Mapping

from pydantic import JsonValue

from pipeline.architecture.row import Architecture
from pipeline.structure.sizes import Sizes, has_experts

# Linears with the width of the FFN: gate, up and down where the MLP is gated, else up and down.
GATED, PLAIN = 3, 2


def read_weights(row: Architecture, config: Mapping[str, JsonValue], sizes: Sizes) -> int:
    """The weights of all matrices that generating one token reads: those of the blocks, and the head. Norms,
    biases and routers are negligible. Of experts, all are counted, though a token visits few of them.
    `config`: tells which blocks have experts; where blocks were dropped, the first ones stand for those left.
    """
    queries = sizes.num_attention_heads * sizes.head_dim
    keys_and_values = 2 * sizes.num_key_value_heads * sizes.head_dim
    attention = sizes.hidden_size * (2 * queries + keys_and_values)
    gated = any(module.endswith(("gate_proj", "gate_up_proj")) for module in row.inner)
    mlp = (GATED if gated else PLAIN) * sizes.hidden_size * (sizes.intermediate_size or 0)
    experts = GATED * sizes.hidden_size * (sizes.moe_intermediate_size or 0) * (sizes.num_experts or 0)
    shared = GATED * sizes.hidden_size * (sizes.shared_expert_intermediate_size or 0)
    total = sizes.vocab_size * sizes.hidden_size
    for block in range(sizes.num_hidden_layers):
        total += attention + (experts + shared if has_experts(row, config, block) else mlp)
    return total
