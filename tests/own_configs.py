"""Tiny configurations of the types with something of their own: linear and latent attention, mixtures.

Each is shaped as the published models of its type are: kinds of blocks that take turns, ordinary blocks in
front, groups of experts, narrow layers for queries or none, sinks, windows, biases, kinds of rotary
embedding.
"""

from typing import Any

WINDOW = 8
POSITIONS = 128
_SIZES: dict[str, Any] = {
    "hidden_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": POSITIONS,
    "tie_word_embeddings": False,
}
_EXPERTS: dict[str, Any] = {"num_experts_per_tok": 2, "moe_intermediate_size": 32}
_DELTA: dict[str, Any] = {
    "head_dim": 16,
    "linear_num_key_heads": 2,
    "linear_key_head_dim": 8,
    "linear_num_value_heads": 4,
    "linear_value_head_dim": 8,
    "layer_types": ["linear_attention", "full_attention", "linear_attention"],
}
_ROUTED: dict[str, Any] = {
    **_EXPERTS,
    "intermediate_size": 96,
    "n_routed_experts": 4,
    "n_shared_experts": 1,
    "routed_scaling_factor": 1.8,
    "n_group": 1,
    "topk_group": 1,
    "first_k_dense_replace": 2,
}
_GROUPS: dict[str, Any] = {"n_routed_experts": 16, "n_group": 4, "topk_group": 2}
_LATENT: dict[str, Any] = {
    **_ROUTED,
    "num_key_value_heads": 4,
    "q_lora_rank": 24,
    "kv_lora_rank": 16,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 16,
    "v_head_dim": 24,
}
_MIXED = ["dense", "dense", "sparse"]
_YARN: dict[str, Any] = {
    "rope_type": "yarn",
    "rope_theta": 1e4,
    "factor": 4.0,
    "original_max_position_embeddings": POSITIONS // 4,
}


def _tiny(model_type: str, **own: Any) -> tuple[str, dict[str, Any]]:
    return model_type, {**_SIZES, **own}


OWN: dict[str, tuple[str, dict[str, Any]]] = {
    "qwen3_next": _tiny(
        "qwen3_next",
        intermediate_size=96,
        num_experts=4,
        shared_expert_intermediate_size=48,
        mlp_only_layers=[1],
        **_EXPERTS,
        **_DELTA,
    ),
    "qwen3_5_text": _tiny("qwen3_5_text", intermediate_size=96, **_DELTA),
    "qwen3_5_moe_text": _tiny(
        "qwen3_5_moe_text", num_experts=4, shared_expert_intermediate_size=48, **_EXPERTS, **_DELTA
    ),
    "glm4_moe": _tiny("glm4_moe", head_dim=16, attention_bias=True, use_qk_norm=True, **_ROUTED),
    "glm4_moe-groups": _tiny("glm4_moe", head_dim=16, **{**_ROUTED, **_GROUPS}),
    "glm4_moe_lite": _tiny("glm4_moe_lite", mlp_layer_types=_MIXED, **_LATENT),
    "glm4_moe_lite-groups": _tiny("glm4_moe_lite", mlp_layer_types=_MIXED, **{**_LATENT, **_GROUPS}),
    "deepseek_v3": _tiny(
        "deepseek_v3", rope_parameters={**_YARN, "mscale_all_dim": 1.0}, **{**_LATENT, **_GROUPS}
    ),
    "deepseek_v3-without-groups": _tiny(
        "deepseek_v3", rope_interleave=False, **{**_LATENT, "q_lora_rank": None}
    ),
    "deepseek_v2": _tiny("deepseek_v2", **{**_LATENT, "q_lora_rank": None, "n_shared_experts": 2}),
    "deepseek_v2-groups": _tiny("deepseek_v2", topk_method="group_limited_greedy", **{**_LATENT, **_GROUPS}),
    "minimax_m2": _tiny(
        "minimax_m2",
        head_dim=16,
        intermediate_size=32,
        num_local_experts=4,
        num_experts_per_tok=2,
        rope_parameters={"rope_type": "default", "rope_theta": 5e6, "partial_rotary_factor": 0.5},
    ),
    "gpt_oss": _tiny(
        "gpt_oss",
        head_dim=16,
        intermediate_size=32,
        num_local_experts=4,
        num_experts_per_tok=2,
        sliding_window=WINDOW,
        layer_types=["sliding_attention", "full_attention", "sliding_attention"],
        rope_parameters={**_YARN, "beta_fast": 32.0, "beta_slow": 1.0, "truncate": False},
    ),
}
OWN_TYPES: tuple[str, ...] = tuple(dict.fromkeys(kind for kind, _ in OWN.values()))
