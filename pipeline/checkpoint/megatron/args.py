"""Megatron's args of a model: sizes and constants under the names of Megatron-LM's command line.

A setting in config.json that Megatron cannot express is refused by name.
"""

from collections.abc import Mapping
from typing import Protocol, cast

from pydantic import JsonValue

from pipeline.architecture.rows import row_for
from pipeline.checkpoint.class_config import class_config
from pipeline.checkpoint.megatron.known import MODEL_TYPES
from pipeline.checkpoint.megatron.parallel import MULTIPLE, padded_vocabulary
from pipeline.errors import UnsupportedCheckpoint, UnsupportedModel
from pipeline.structure.sizes import Sizes, sizes_of

Args = dict[str, JsonValue]

FIXED: Args = {  # the only values that the known model types compute
    "normalization": "RMSNorm",
    "swiglu": True,
    "position_embedding_type": "rope",
    "rotary_percent": 1.0,
    "rotary_interleaved": False,
    "rotary_seq_len_interpolation_factor": None,
    "apply_layernorm_1p": False,
    "apply_residual_connection_post_layernorm": False,
    "multi_latent_attention": False,
    "attention_output_gate": False,
    "num_experts": None,
    "softmax_type": "vanilla",
}
# The constants of Llama 3's rotary scaling, which Megatron has no args for.
LLAMA3: Args = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}


class _Config(Protocol):
    """The fields that transformers' classes of the known types share."""

    model_type: str
    hidden_act: str
    rms_norm_eps: float
    max_position_embeddings: int
    tie_word_embeddings: bool
    num_hidden_layers: int
    rope_parameters: dict[str, JsonValue]


def sizes_for_megatron(config: Mapping[str, JsonValue]) -> Sizes:
    """Returns the sizes of the model that a config.json describes. Raises UnsupportedModel for types without
    a Megatron layout."""
    model_type = str(config.get("model_type"))
    if model_type not in MODEL_TYPES:
        raise UnsupportedModel(
            f"model type {model_type!r} has no Megatron layout here; known types: {', '.join(MODEL_TYPES)}; "
            "others go into pipeline/checkpoint/megatron/mapping.py"
        )
    return sizes_of(row_for(model_type), config)


def args_of(config: Mapping[str, JsonValue], *, tensor_parallel: int = 1) -> Args:
    """Returns the args of a model with this config.json, for a group of `tensor_parallel` ranks. Raises
    UnsupportedModel, and UnsupportedCheckpoint for a setting that Megatron cannot express."""
    sizes = sizes_for_megatron(config)
    full = cast(_Config, class_config(config))
    if full.hidden_act != "silu":
        raise _unsupported("hidden_act", full.hidden_act, "'silu'")
    linear_bias = _linear_bias(full)
    return {
        **FIXED,
        **_rotary(full),
        **_window(full),
        "num_layers": sizes.num_hidden_layers,
        "hidden_size": sizes.hidden_size,
        "num_attention_heads": sizes.num_attention_heads,
        "group_query_attention": sizes.num_key_value_heads != sizes.num_attention_heads,
        "num_query_groups": sizes.num_key_value_heads,
        "kv_channels": sizes.head_dim,
        "ffn_hidden_size": sizes.intermediate_size,
        "norm_epsilon": full.rms_norm_eps,
        "max_position_embeddings": full.max_position_embeddings,
        "seq_length": full.max_position_embeddings,
        "add_bias_linear": linear_bias,
        "add_qkv_bias": linear_bias or full.model_type == "qwen2",
        "qk_layernorm": full.model_type == "qwen3",
        "untie_embeddings_and_output_weights": not full.tie_word_embeddings,
        "vocab_size": sizes.vocab_size,
        "make_vocab_size_divisible_by": MULTIPLE,
        "padded_vocab_size": padded_vocabulary(sizes.vocab_size, tensor_parallel),
        "tensor_model_parallel_size": tensor_parallel,
        "pipeline_model_parallel_size": 1,
    }


def _linear_bias(full: _Config) -> bool:
    """Tells whether every linear has a bias. Megatron has biases on every linear, on query, key and value, or
    on none."""
    attention, mlp = bool(getattr(full, "attention_bias", False)), bool(getattr(full, "mlp_bias", False))
    if attention != mlp:
        raise _unsupported("attention_bias" if attention else "mlp_bias", True, "false, or both of them true")
    return attention


def _rotary(full: _Config) -> Args:
    rope = full.rope_parameters
    kind = rope.get("rope_type", "default")
    if rope.get("partial_rotary_factor", 1.0) != 1.0:
        raise _unsupported("rope_parameters.partial_rotary_factor", rope["partial_rotary_factor"], "1.0")
    if kind not in ("default", "llama3"):
        raise _unsupported("rope_parameters.rope_type", kind, "'default', 'llama3'")
    for name, value in LLAMA3.items() if kind == "llama3" else ():
        if rope.get(name) != value:
            raise _unsupported(f"rope_parameters.{name}", rope.get(name), repr(value))
    return {
        "rotary_base": rope["rope_theta"],
        "use_rotary_position_embeddings": True,
        "use_rope_scaling": kind == "llama3",
        "rope_scaling_factor": rope["factor"] if kind == "llama3" else 8.0,
    }


def _window(full: _Config) -> Args:
    """Returns the args of sliding windows. Megatron's window counts the tokens before the current one, and so
    is one smaller than Hugging Face's."""
    window: int | None = getattr(full, "sliding_window", None)
    types: list[str] | None = getattr(full, "layer_types", None)
    sliding = [window is not None] * full.num_hidden_layers
    if types is not None:
        sliding = [one == "sliding_attention" for one in types]
    if window is None or not any(sliding):
        return {"window_size": None, "window_attn_skip_freq": None}
    by_block: list[JsonValue] | None = None if all(sliding) else [int(one) for one in sliding]
    return {"window_size": [window - 1, 0], "window_attn_skip_freq": by_block}


def _unsupported(field: str, got: object, allowed: str) -> UnsupportedCheckpoint:
    return UnsupportedCheckpoint(
        f"config.json: Megatron cannot express {field}={got!r}; allowed: {allowed}", f"config.{field}"
    )
