"""Tiny configurations of the types that tests/pipeline/architecture/test_hybrid.py covers, shaped as the
published models of each type are."""

from typing import Any

WINDOW = 8
POSITIONS = 128
_SIZES: dict[str, Any] = {
    "hidden_size": 64,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 96,
    "max_position_embeddings": POSITIONS,
    "tie_word_embeddings": False,
}
_TIED: dict[str, Any] = {"tie_word_embeddings": True}
_GEMMA4: dict[str, Any] = {
    "head_dim": 16,
    "global_head_dim": 32,
    "sliding_window": WINDOW,
    "final_logit_softcapping": 30.0,
    **_TIED,
}
_NEMOTRON: dict[str, Any] = {
    "head_dim": 16,
    "mamba_num_heads": 4,
    "mamba_head_dim": 8,
    "n_groups": 2,
    "ssm_state_size": 16,
    "chunk_size": 8,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 32,
    "moe_shared_expert_intermediate_size": 48,
}
_MAMBA: dict[str, Any] = {"mamba_d_state": 16, "mamba_chunk_size": 8, "mamba_n_groups": 1}


def _tiny(model_type: str, *kinds: str, **own: Any) -> tuple[str, dict[str, Any]]:
    return model_type, {**_SIZES, "num_hidden_layers": len(kinds), "layer_types": [*kinds], **own}


def _nemotron(*kinds: str, **own: Any) -> tuple[str, dict[str, Any]]:
    return "nemotron_h", {**_SIZES, **_NEMOTRON, "layers_block_type": [*kinds], **own}


HYBRID: dict[str, tuple[str, dict[str, Any]]] = {
    # as Gemma 4 31B: keys are values in blocks with full attention
    "gemma4_text": _tiny(
        "gemma4_text",
        "sliding_attention",
        "full_attention",
        attention_k_eq_v=True,
        num_global_key_value_heads=1,
        hidden_size_per_layer_input=0,
        **_GEMMA4,
    ),
    # as Gemma 4 E2B: inputs by block, and keys and values that later blocks share
    "gemma4_text-shared": _tiny(
        "gemma4_text",
        *("sliding_attention", "full_attention") * 2,
        hidden_size_per_layer_input=8,
        vocab_size_per_layer_input=384,
        num_kv_shared_layers=2,
        use_double_wide_mlp=True,
        **_GEMMA4,
    ),
    "nemotron_h": _nemotron("linear_attention", "moe", "full_attention", "mlp"),
    # as Nemotron 3 Super: experts in a space of their own
    "nemotron_h-latent": _nemotron("mlp", "full_attention", "moe", "mlp", moe_latent_size=24),
    "granitemoehybrid": _tiny(
        "granitemoehybrid",
        "linear_attention",
        "full_attention",
        num_local_experts=0,
        shared_intermediate_size=96,
        mamba_n_heads=8,
        embedding_multiplier=12.0,
        residual_multiplier=0.22,
        attention_multiplier=0.0625,
        logits_scaling=8.0,
        **_MAMBA,
        **_TIED,
    ),
    "gemma3n_text": _tiny(
        "gemma3n_text",
        *("sliding_attention", "full_attention") * 2,
        head_dim=16,
        sliding_window=WINDOW,
        altup_num_inputs=3,
        laurel_rank=8,
        hidden_size_per_layer_input=8,
        vocab_size_per_layer_input=384,
        num_kv_shared_layers=2,
        activation_sparsity_pattern=[0.9, 0.9, 0.0, 0.0],
        **_TIED,
    ),
    # as Llama 4 Maverick: blocks take turns to have experts, which Scout has in all
    "llama4_text": _tiny(
        "llama4_text",
        *("chunked_attention", "full_attention") * 2,
        head_dim=16,
        attention_chunk_size=WINDOW,
        no_rope_layers=[1, 0, 1, 0],
        interleave_moe_layer_step=2,
        num_local_experts=4,
        num_experts_per_tok=1,
        intermediate_size_mlp=96,
        floor_scale=8,
        intermediate_size=32,
    ),
    "lfm2": _tiny("lfm2", "conv", "full_attention", block_multiple_of=32, **_TIED),
    "falcon_h1": (
        "falcon_h1",
        {
            **_SIZES,
            "num_hidden_layers": 2,
            "head_dim": 32,
            "mamba_d_ssm": 48,
            "mamba_n_heads": 6,
            "mamba_rms_norm": True,
            "key_multiplier": 0.5,
            "mlp_multipliers": [0.9, 1.1],
            "ssm_multipliers": [0.5, 0.6, 0.7, 0.8, 0.9],
            "lm_head_multiplier": 0.5,
            "embedding_multiplier": 4.0,
            **_MAMBA,
        },
    ),
}
HYBRID_TYPES: tuple[str, ...] = tuple(dict.fromkeys(kind for kind, _ in HYBRID.values()))
