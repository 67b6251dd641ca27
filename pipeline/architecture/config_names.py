"""How transformers' class of each model type reads config.json: under which names, and with which defaults.

Tests hold it against the classes themselves. It is known here because the API reads configs and has no
transformers.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from pydantic import JsonValue


@dataclass(frozen=True)
class ConfigNames:
    """`spellings`: for a field that the class reads under several names, all of them; the first that a file
    states counts. `defaults`: what the class takes for a field that the file lacks, unless that follows from
    other fields. `counted`: for a field that the class takes from the length of others, whatever the file
    states for it, those others, the one that counts first.
    """

    spellings: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    defaults: Mapping[str, int | bool] = field(default_factory=dict)
    counted: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def stated(self, config: Mapping[str, JsonValue], name: str) -> tuple[str, ...]:
        """Returns the names under which config.json states a field, the one that counts first; the field's
        own name if there are none."""
        known = self.spellings.get(name, (name,))
        return tuple(one for one in known if config.get(one) is not None) or (name,)

    def read(self, config: Mapping[str, JsonValue], name: str) -> JsonValue:
        """Returns what the class reads for a field; None if that follows from other fields. A field that the
        file states as null is not left out: the class derives it."""
        for other in self.counted.get(name, ()):
            listed = config.get(other)
            if isinstance(listed, list | str):
                return len(listed)
        if name in self.counted:
            return self.defaults.get(name)
        if not any(one in config for one in self.spellings.get(name, (name,))):
            return self.defaults.get(name)
        return config.get(self.stated(config, name)[0])


def _defaults(hidden: int, blocks: int, heads: int, ffn: int, tokens: int, positions: int) -> dict[str, int]:
    return {
        "hidden_size": hidden,
        "num_hidden_layers": blocks,
        "num_attention_heads": heads,
        "intermediate_size": ffn,
        "vocab_size": tokens,
        "max_position_embeddings": positions,
    }


_TIED = {"tie_word_embeddings": True}


def llama_like_names(
    *sizes: int, groups: int | None = None, head_dim: int | None = None, tied: bool = False
) -> ConfigNames:
    """Returns the entry of a type that reads Llama's names. `sizes`: the arguments of _defaults."""
    defaults: dict[str, int | bool] = {**_defaults(*sizes), **(_TIED if tied else {})}
    if groups is not None:
        defaults["num_key_value_heads"] = groups
    if head_dim is not None:
        defaults["head_dim"] = head_dim
    return ConfigNames(defaults=defaults)


CONFIG_NAMES: Mapping[str, ConfigNames] = {
    "llama": ConfigNames(defaults=_defaults(4096, 32, 32, 11008, 32000, 2048)),
    "mistral": ConfigNames(
        defaults={**_defaults(4096, 32, 32, 14336, 32000, 131072), "num_key_value_heads": 8}
    ),
    "qwen2": ConfigNames(
        defaults={**_defaults(4096, 32, 32, 22016, 151936, 32768), "num_key_value_heads": 32}
    ),
    "qwen3": ConfigNames(
        defaults={
            **_defaults(4096, 32, 32, 22016, 151936, 32768),
            "num_key_value_heads": 32,
            "head_dim": 128,
        }
    ),
    "gemma2": ConfigNames(
        defaults={
            **_defaults(2304, 26, 8, 9216, 256000, 8192),
            **_TIED,
            "num_key_value_heads": 4,
            "head_dim": 256,
        }
    ),
    "gemma3_text": ConfigNames(
        defaults={
            **_defaults(2304, 26, 8, 9216, 262208, 131072),
            **_TIED,
            "num_key_value_heads": 4,
            "head_dim": 256,
        }
    ),
    "phi3": ConfigNames(defaults=_defaults(3072, 32, 32, 8192, 32064, 4096)),
    "ministral": llama_like_names(4096, 32, 32, 14336, 32000, 131072, groups=8),
    "ministral3": llama_like_names(4096, 34, 32, 14336, 131072, 262144, groups=8, head_dim=128),
    "gemma": llama_like_names(3072, 28, 16, 24576, 256000, 8192, groups=16, head_dim=256, tied=True),
    "olmo2": llama_like_names(4096, 32, 32, 11008, 50304, 2048),
    "olmo3": llama_like_names(4096, 32, 32, 11008, 50304, 2048),
    "smollm3": llama_like_names(2048, 36, 16, 11008, 128256, 32768, groups=4, tied=True),
    "granite": llama_like_names(4096, 32, 32, 11008, 32000, 2048),
    "seed_oss": llama_like_names(4096, 64, 80, 27648, 155136, 524288, groups=8, head_dim=128),
    "ernie4_5": llama_like_names(1024, 18, 16, 3072, 103424, 131072, groups=2, head_dim=128, tied=True),
    "exaone4": llama_like_names(4096, 32, 32, 16384, 102400, 2048, groups=32),
    "cohere": llama_like_names(8192, 40, 64, 22528, 256000, 8192, tied=True),
    "cohere2": llama_like_names(8192, 40, 64, 22528, 256000, 8192, tied=True),
    "helium": llama_like_names(2560, 24, 20, 7040, 48000, 4096, groups=20, head_dim=128),
    "hunyuan_v1_dense": llama_like_names(4096, 32, 32, 11008, 290943, 2048),
    "stablelm": llama_like_names(2560, 32, 32, 6912, 50304, 4096, groups=32),
    "glm": llama_like_names(4096, 40, 32, 13696, 151552, 131072, groups=2, head_dim=128),
    "glm4": llama_like_names(4096, 40, 32, 13696, 151552, 131072, groups=2, head_dim=128),
    "nemotron": llama_like_names(6144, 32, 48, 24576, 256000, 4096),
    "arcee": llama_like_names(2560, 32, 32, 18432, 32000, 4096),
    "apertus": llama_like_names(4096, 32, 32, 14336, 131072, 65536),
    "starcoder2": llama_like_names(3072, 30, 24, 12288, 49152, 4096, groups=2, tied=True),
    "phi": llama_like_names(2048, 24, 32, 8192, 51200, 2048),
    "mixtral": ConfigNames(
        {"num_local_experts": ("num_experts", "num_local_experts")},
        {
            **_defaults(4096, 32, 32, 14336, 32000, 131072),
            "num_key_value_heads": 8,
            "num_local_experts": 8,
            "num_experts_per_tok": 2,
        },
    ),
    "qwen2_moe": ConfigNames(
        defaults={
            **_defaults(2048, 24, 16, 5632, 151936, 32768),
            "num_key_value_heads": 16,
            "moe_intermediate_size": 1408,
            "shared_expert_intermediate_size": 5632,
            "num_experts": 60,
            "num_experts_per_tok": 4,
        }
    ),
    "qwen3_moe": ConfigNames(
        {"num_local_experts": ("num_local_experts", "num_experts")},
        {
            **_defaults(2048, 24, 32, 6144, 151936, 32768),
            "num_key_value_heads": 4,
            "moe_intermediate_size": 768,
            "num_local_experts": 128,
            "num_experts_per_tok": 8,
        },
    ),
    "opt": ConfigNames(
        defaults={
            "hidden_size": 768,
            "num_hidden_layers": 12,
            "num_attention_heads": 12,
            "ffn_dim": 3072,
            "vocab_size": 50272,
            "max_position_embeddings": 2048,
            **_TIED,
        }
    ),
    "gpt2": ConfigNames(
        {
            "n_embd": ("hidden_size", "n_embd"),
            "n_layer": ("num_hidden_layers", "n_layer"),
            "n_head": ("num_attention_heads", "n_head"),
            "n_positions": ("max_position_embeddings", "n_positions"),
        },
        {"n_embd": 768, "n_layer": 12, "n_head": 12, "vocab_size": 50257, "n_positions": 1024, **_TIED},
    ),
    "gpt_neox": ConfigNames(defaults=_defaults(6144, 44, 64, 24576, 50432, 2048)),
    "falcon": ConfigNames(
        {"hidden_size": ("n_embed", "hidden_size")},
        {
            "hidden_size": 4544,
            "num_hidden_layers": 32,
            "num_attention_heads": 71,
            "vocab_size": 65024,
            "max_position_embeddings": 2048,
            **_TIED,
        },
    ),
    "bloom": ConfigNames(
        {
            "hidden_size": ("n_embed", "hidden_size"),
            "n_layer": ("num_hidden_layers", "n_layer"),
            "n_head": ("num_attention_heads", "n_head"),
        },
        {"hidden_size": 64, "n_layer": 2, "n_head": 8, "vocab_size": 250880, **_TIED},
    ),
}
