"""How many weights a model has, by its sizes alone."""

from pipeline.architecture.row import Architecture
from pipeline.structure.sizes import Sizes

# Linears with the width of the FFN: gate, up and down where the MLP is gated, else up and down.
GATED, PLAIN = 3, 2


def read_weights(row: Architecture, sizes: Sizes) -> int:
    """The weights of all matrices that generating one token reads: those of the blocks, and the head. Norms
    and biases are negligible. Of experts, all are counted, though a token visits few of them."""
    queries = sizes.num_attention_heads * sizes.head_dim
    keys_and_values = 2 * sizes.num_key_value_heads * sizes.head_dim
    attention = sizes.hidden_size * (2 * queries + keys_and_values)
    gated = any(module.endswith(("gate_proj", "gate_up_proj")) for module in row.inner)
    mlp = (GATED if gated else PLAIN) * sizes.hidden_size * (sizes.intermediate_size or 0)
    experts = GATED * sizes.hidden_size * (sizes.moe_intermediate_size or 0) * (sizes.num_experts or 0)
    shared = GATED * sizes.hidden_size * (sizes.shared_expert_intermediate_size or 0)
    blocks = sizes.num_hidden_layers * (attention + mlp + experts + shared)
    return blocks + sizes.vocab_size * sizes.hidden_size
