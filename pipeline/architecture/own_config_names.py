"""How transformers' classes of mixtures and of types with linear or latent attention read config.json."""

from collections.abc import Mapping

from pipeline.architecture.config_names import ConfigNames


def _sizes(hidden: int, blocks: int, heads: int, tokens: int, positions: int) -> dict[str, int]:
    return {
        "hidden_size": hidden,
        "num_hidden_layers": blocks,
        "num_attention_heads": heads,
        "vocab_size": tokens,
        "max_position_embeddings": positions,
    }


_NEXT = {"num_nextn_predict_layers": ("num_mtp_layers", "num_nextn_predict_layers")}
# Linear attention of Qwen3-Next and Qwen3.5.
_DELTA = {
    "linear_num_key_heads": 16,
    "linear_key_head_dim": 128,
    "linear_num_value_heads": 32,
    "linear_value_head_dim": 128,
}

OWN_CONFIG_NAMES: Mapping[str, ConfigNames] = {
    "qwen3_next": ConfigNames(
        defaults={
            **_sizes(2048, 48, 16, 151936, 32768),
            "intermediate_size": 5632,
            **_DELTA,
            "num_key_value_heads": 2,
            "head_dim": 256,
            "moe_intermediate_size": 512,
            "shared_expert_intermediate_size": 512,
            "num_experts": 512,
            "num_experts_per_tok": 10,
        }
    ),
    "qwen3_5_text": ConfigNames(
        defaults={
            **_sizes(4096, 32, 16, 248320, 32768),
            "intermediate_size": 12288,
            **_DELTA,
            "num_key_value_heads": 4,
            "head_dim": 256,
        }
    ),
    "qwen3_5_moe_text": ConfigNames(
        defaults={
            **_sizes(2048, 40, 16, 248320, 32768),
            **_DELTA,
            "num_key_value_heads": 2,
            "head_dim": 256,
            "moe_intermediate_size": 512,
            "shared_expert_intermediate_size": 512,
            "num_experts": 256,
            "num_experts_per_tok": 8,
        }
    ),
    "glm4_moe": ConfigNames(
        {"n_routed_experts": ("num_local_experts", "n_routed_experts"), **_NEXT},
        {
            **_sizes(4096, 46, 96, 151552, 131072),
            "intermediate_size": 10944,
            "num_key_value_heads": 8,
            "moe_intermediate_size": 1408,
            "n_routed_experts": 128,
            "n_shared_experts": 1,
            "num_experts_per_tok": 8,
            "first_k_dense_replace": 1,
        },
    ),
    "glm4_moe_lite": ConfigNames(
        {
            "n_routed_experts": ("num_local_experts", "n_routed_experts"),
            "qk_rope_head_dim": ("head_dim", "qk_rope_head_dim"),
            **_NEXT,
        },
        {
            **_sizes(2048, 47, 20, 154880, 202752),
            "intermediate_size": 10240,
            "num_key_value_heads": 20,
            "moe_intermediate_size": 1536,
            "n_routed_experts": 64,
            "n_shared_experts": 1,
            "num_experts_per_tok": 4,
            "kv_lora_rank": 512,
            "q_lora_rank": 768,
            "qk_rope_head_dim": 64,
            "qk_nope_head_dim": 192,
            "v_head_dim": 256,
        },
    ),
    "deepseek_v3": ConfigNames(
        {"n_routed_experts": ("num_local_experts", "n_routed_experts"), **_NEXT},
        {
            **_sizes(7168, 61, 128, 129280, 4096),
            "intermediate_size": 18432,
            "num_key_value_heads": 128,
            "moe_intermediate_size": 2048,
            "n_routed_experts": 256,
            "n_shared_experts": 1,
            "num_experts_per_tok": 8,
            "n_group": 8,
            "topk_group": 4,
            "first_k_dense_replace": 3,
            "kv_lora_rank": 512,
            "q_lora_rank": 1536,
            "qk_rope_head_dim": 64,
            "qk_nope_head_dim": 128,
            "v_head_dim": 128,
        },
    ),
    "deepseek_v2": ConfigNames(
        {"n_routed_experts": ("num_experts", "n_routed_experts")},
        {
            **_sizes(4096, 32, 32, 102400, 2048),
            "intermediate_size": 11008,
            "moe_intermediate_size": 1407,
            "n_routed_experts": 64,
            "n_shared_experts": 2,
            "first_k_dense_replace": 0,
            "kv_lora_rank": 512,
            "q_lora_rank": 1536,
            "qk_rope_head_dim": 64,
            "qk_nope_head_dim": 128,
            "v_head_dim": 128,
        },
    ),
    "minimax_m2": ConfigNames(
        {"num_local_experts": ("num_experts", "num_local_experts")},
        {
            **_sizes(3072, 62, 48, 200064, 196608),
            "intermediate_size": 1536,
            "num_key_value_heads": 8,
            "head_dim": 128,
            "num_local_experts": 256,
            "num_experts_per_tok": 8,
        },
    ),
    "gpt_oss": ConfigNames(
        {"num_local_experts": ("num_experts", "num_local_experts")},
        {
            **_sizes(2880, 36, 64, 201088, 131072),
            "intermediate_size": 2880,
            "num_key_value_heads": 8,
            "head_dim": 64,
            "num_local_experts": 128,
            "num_experts_per_tok": 4,
        },
    ),
}
