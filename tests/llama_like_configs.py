"""Tiny configurations of the Llama-like types that tests/pipeline/architecture/test_llama_like.py covers.

Each is shaped as the published models of its type are: their windows, kinds of rotary embedding, biases,
norms, multipliers, tied heads and shares of key-value heads.
"""

from typing import Any

WINDOW = 8
POSITIONS = 128
_SIZES: dict[str, Any] = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 96,
    "max_position_embeddings": POSITIONS,
    "tie_word_embeddings": False,
}
_TURNS: dict[str, Any] = {"sliding_window": WINDOW, "layer_types": ["sliding_attention", "full_attention"]}
_TIED: dict[str, Any] = {"tie_word_embeddings": True}
_HALF: dict[str, Any] = {
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5}
}
_YARN: dict[str, Any] = {
    "rope_type": "yarn",
    "rope_theta": 1e4,
    "factor": 4.0,
    "original_max_position_embeddings": POSITIONS // 4,
}
_LLAMA3: dict[str, Any] = {
    "rope_type": "llama3",
    "rope_theta": 1e4,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": POSITIONS // 2,
}


def _tiny(model_type: str, **own: Any) -> tuple[str, dict[str, Any]]:
    return model_type, {**_SIZES, **own}


LLAMA_LIKE: dict[str, tuple[str, dict[str, Any]]] = {
    "olmo2": _tiny("olmo2", num_key_value_heads=4),
    "olmo3": _tiny(
        "olmo3",
        rope_parameters={
            "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
            "full_attention": _YARN,
        },
        **_TURNS,
    ),
    "smollm3": _tiny("smollm3", no_rope_layers=[1, 0], **_TIED),
    "granite": _tiny(
        "granite",
        embedding_multiplier=12.0,
        residual_multiplier=0.22,
        attention_multiplier=0.0625,
        logits_scaling=8.0,
        **_TIED,
    ),
    "stablelm": _tiny(
        "stablelm",
        use_qkv_bias=True,
        rope_parameters={"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.25},
    ),
    "stablelm-head-norms": _tiny("stablelm", qk_layernorm=True, use_parallel_residual=True, **_HALF),
    "cohere": _tiny("cohere", num_key_value_heads=4, logit_scale=0.0625, **_TIED),
    "cohere-head-norms": _tiny("cohere", use_qk_norm=True, **_TIED),
    "cohere2": _tiny("cohere2", **_TURNS, **_TIED),
    "gemma": _tiny("gemma", num_key_value_heads=1, head_dim=32, **_TIED),
    "ministral": _tiny("ministral", head_dim=16, **_TURNS),
    "ministral3": _tiny("ministral3", head_dim=32, rope_parameters={**_YARN, "llama_4_scaling_beta": 0.1}),
    "seed_oss": _tiny("seed_oss", head_dim=32, attention_bias=True, attention_out_bias=False),
    "ernie4_5": _tiny("ernie4_5", head_dim=32, **_TIED),
    "hunyuan_v1_dense": _tiny(
        "hunyuan_v1_dense",
        head_dim=16,
        rope_parameters={"rope_type": "dynamic", "rope_theta": 1e4, "factor": 1.0, "alpha": 1000.0},
        **_TIED,
    ),
    "exaone4": _tiny("exaone4", rope_parameters=_LLAMA3, **_TURNS),
    "helium": _tiny("helium", num_key_value_heads=4, head_dim=16),
    "starcoder2": _tiny("starcoder2", use_bias=True, sliding_window=WINDOW, **_TIED),
    "glm": _tiny("glm", head_dim=32, attention_bias=True, **_HALF),
    "glm4": _tiny("glm4", head_dim=16, **_HALF),
    "phi": _tiny("phi", num_key_value_heads=4, **_HALF),
    "phi-head-norms": _tiny("phi", qk_layernorm=True, **_HALF),
    "nemotron": _tiny("nemotron", **_HALF),
    "arcee": _tiny("arcee", rope_parameters=_YARN),
    "apertus": _tiny("apertus", rope_parameters=_LLAMA3),
}
LLAMA_LIKE_TYPES: tuple[str, ...] = tuple(dict.fromkeys(kind for kind, _ in LLAMA_LIKE.values()))
