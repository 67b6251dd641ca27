"""Labels every dimension of every parameter. Slicing, tensor-parallel shares, scores by magnitude and the
mapping to Megatron's layout follow from these labels.

A label names one size of the model, or several that lie together in one dimension. Labels are in the order in
which weights are stored, [out_features, in_features] unless the row is `transposed`; a bias has the label of
the output.
"""

from collections.abc import Mapping
from typing import Literal

Dimension = Literal[
    "hidden",
    "query",  # query heads × head_dim
    "key_value",  # key-value heads × head_dim
    "qkv",  # all query heads, all keys, all values, × head_dim
    "qkv_by_group",  # for each key-value head its query heads, its key, its value, × head_dim
    "query_heads",
    "key_value_heads",
    "head_dim",
    "ffn",
    "gate_up",  # the gate's FFN channels, then as many of the other half
    "shared_ffn",  # the FFN channels of the expert that every token passes through
    "expert_ffn",
    "expert_pairs",  # for each FFN channel of an expert its gate, then its other half
    "experts",
    "gated_query",  # for each query head its query, then its output gate, × head_dim
    # Latent attention, of which heads alone can be cut.
    "latent_query",  # for each head its query without position, then the one with it
    "latent_key_value",  # for each head its key without position, then its value
    "latent_value",  # for each head its value
    "query_rank",
    "key_value_rank",
    "key_value_latent",  # the rank, then the key with position that all heads share
    # Linear attention (the gated delta rule), which no cut changes.
    "delta_qkvz",  # by key head: its query, key, values and output gates
    "delta_qkv",
    "delta_value",
    "delta_gates",  # by value head: how much it writes, and how much it forgets
    "delta_heads",
    "delta_head_dim",
    "kernel",
    "vocabulary",
    "embedding",  # the width of tables that are narrower than hidden (OPT 350M)
    "positions",
    "own",  # a size of the type's own, which no cut changes: of state spaces, of inputs by block
    "one",
]
Labels = Mapping[str, tuple[Dimension, ...]]

# One slot for each query head, whatever its width.
BY_HEAD: tuple[Dimension, ...] = ("query", "gated_query", "latent_query", "latent_key_value", "latent_value")

Size = Literal[
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "intermediate_size",
    "moe_intermediate_size",
    "shared_expert_intermediate_size",
    "num_experts",
    "vocab_size",
]

# Llama's names, which most types share.
ATTENTION: Labels = {
    "self_attn.q_proj": ("query", "hidden"),
    "self_attn.k_proj": ("key_value", "hidden"),
    "self_attn.v_proj": ("key_value", "hidden"),
    "self_attn.o_proj": ("hidden", "query"),
    "self_attn.q_norm": ("head_dim",),
    "self_attn.k_norm": ("head_dim",),
}
MLP: Labels = {
    "mlp.gate_proj": ("ffn", "hidden"),
    "mlp.up_proj": ("ffn", "hidden"),
    "mlp.down_proj": ("hidden", "ffn"),
}
_NORMS = (
    "input_layernorm",
    "post_attention_layernorm",
    "pre_feedforward_layernorm",
    "post_feedforward_layernorm",
    "post_self_attn_layernorm",
    "post_mlp_layernorm",
)
NORMS: Labels = dict.fromkeys(_NORMS, ("hidden",))
ROUTER: Labels = {"mlp.gate": ("experts", "hidden")}
SHARED_EXPERT: Labels = {
    "mlp.shared_expert.gate_proj": ("shared_ffn", "hidden"),
    "mlp.shared_expert.up_proj": ("shared_ffn", "hidden"),
    "mlp.shared_expert.down_proj": ("hidden", "shared_ffn"),
    "mlp.shared_expert_gate": ("one", "hidden"),
}
# The shared experts of DeepSeek and GLM, which have no gate and are called in the plural.
SHARED_EXPERTS: Labels = {
    "mlp.shared_experts.gate_proj": ("shared_ffn", "hidden"),
    "mlp.shared_experts.up_proj": ("shared_ffn", "hidden"),
    "mlp.shared_experts.down_proj": ("hidden", "shared_ffn"),
}
OUTER: Labels = {
    "model.embed_tokens": ("vocabulary", "hidden"),
    "model.norm": ("hidden",),
    "lm_head": ("vocabulary", "hidden"),
}

# The names of Llama-like types whose MLP has no gate.
UP_DOWN: Labels = {name: labels for name, labels in MLP.items() if name != "mlp.gate_proj"}
# Phi-3's and GLM's name of gate and up in one matrix.
GATE_UP: Labels = {
    "mlp.gate_up_proj": ("gate_up", "hidden"),
    "mlp.down_proj": ("hidden", "ffn"),
}

# NeoX's names, which Falcon and BLOOM took over from Megatron.
FOUR_H: Labels = {
    "mlp.dense_h_to_4h": ("ffn", "hidden"),
    "mlp.dense_4h_to_h": ("hidden", "ffn"),
    "input_layernorm": ("hidden",),
    "post_attention_layernorm": ("hidden",),
}

SIZES: Mapping[Size, str] = {
    "hidden_size": "hidden_size",
    "num_hidden_layers": "num_hidden_layers",
    "num_attention_heads": "num_attention_heads",
    "num_key_value_heads": "num_key_value_heads",
    "intermediate_size": "intermediate_size",
    "vocab_size": "vocab_size",
}
UNGROUPED: Mapping[Size, str] = {size: name for size, name in SIZES.items() if size != "num_key_value_heads"}
