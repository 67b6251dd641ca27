"""How transformers' classes of the types in hybrid.py read config.json: see config_names.py."""

from collections.abc import Mapping

from pipeline.architecture.config_names import ConfigNames, llama_like_names

HYBRID_CONFIG_NAMES: Mapping[str, ConfigNames] = {
    "gemma4_text": ConfigNames(
        defaults={
            **llama_like_names(2304, 30, 8, 9216, 262144, 131072, groups=4, head_dim=256, tied=True).defaults,
            "hidden_size_per_layer_input": 256,
            "vocab_size_per_layer_input": 262144,
        }
    ),
    "nemotron_h": ConfigNames(
        defaults={
            "hidden_size": 4096,
            "num_hidden_layers": 4,
            "num_attention_heads": 32,
            "num_key_value_heads": 8,
            "head_dim": 128,
            "intermediate_size": 21504,
            "vocab_size": 131072,
            "max_position_embeddings": 4096,
            "n_routed_experts": 8,
            "moe_intermediate_size": 7688,
            "moe_shared_expert_intermediate_size": 7688,
            "num_experts_per_tok": 2,
        },
        counted={"num_hidden_layers": ("layers_block_type", "hybrid_override_pattern")},
    ),
    "granitemoehybrid": ConfigNames(
        defaults={
            "hidden_size": 4096,
            "num_hidden_layers": 32,
            "num_attention_heads": 32,
            "shared_intermediate_size": 1024,
            "vocab_size": 32000,
            "max_position_embeddings": 2048,
        }
    ),
    "lfm2": ConfigNames(
        {
            "intermediate_size": ("block_ff_dim", "intermediate_size"),
            "tie_word_embeddings": ("tie_embedding", "tie_word_embeddings"),
        },
        llama_like_names(2560, 32, 32, 12288, 65536, 128000, groups=8, tied=True).defaults,
    ),
    "gemma3n_text": ConfigNames(
        defaults={
            "hidden_size": 2048,
            "num_hidden_layers": 35,
            "num_attention_heads": 8,
            "num_key_value_heads": 2,
            "head_dim": 256,
            "vocab_size": 262400,
            "max_position_embeddings": 32768,
            "hidden_size_per_layer_input": 256,
            "altup_num_inputs": 4,
            "tie_word_embeddings": True,
        }
    ),
    "llama4_text": ConfigNames(
        defaults={
            "hidden_size": 5120,
            "num_hidden_layers": 48,
            "num_attention_heads": 40,
            "num_key_value_heads": 8,
            "head_dim": 128,
            "intermediate_size": 8192,
            "intermediate_size_mlp": 16384,
            "vocab_size": 202048,
            "max_position_embeddings": 131072,
            "num_local_experts": 16,
            "num_experts_per_tok": 1,
        }
    ),
    "falcon_h1": llama_like_names(4096, 32, 32, 14336, 128000, 8192, groups=8),
}
