"""Derives the config.json of a Megatron checkpoint from its args."""

from argparse import Namespace
from collections.abc import Mapping
from typing import cast

from pydantic import JsonValue
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as CLASSES

from pipeline.architecture.rows import row_for
from pipeline.checkpoint.megatron.args import FIXED, LLAMA3, args_of
from pipeline.errors import UnsupportedCheckpoint

REQUIRED = (
    *("num_layers", "hidden_size", "num_attention_heads", "ffn_hidden_size", "max_position_embeddings"),
    *("norm_epsilon", "rotary_base", "vocab_size", "normalization", "swiglu", "position_embedding_type"),
    *("add_bias_linear", "untie_embeddings_and_output_weights"),
)
COMPARED = (
    *("num_layers", "hidden_size", "num_attention_heads", "ffn_hidden_size", "kv_channels"),
    *("norm_epsilon", "rotary_base", "use_rope_scaling", "window_size"),
    *("add_bias_linear", "untie_embeddings_and_output_weights", "qk_layernorm", *FIXED),
)
OLDER = {"norm_epsilon": "layernorm_epsilon"}  # the names before Megatron-core


def config_of(args: Namespace | None, *, dtype: str) -> dict[str, JsonValue]:
    """Returns the config.json of a model with these args, whose weights are of `dtype`. Raises
    UnsupportedCheckpoint, which names the missing args, or those that no Llama-shaped type can compute."""
    given = _spelled(args)
    missing = [name for name in REQUIRED if given.get(name) is None]
    if missing:
        raise UnsupportedCheckpoint(
            f"the checkpoint's args lack {', '.join(missing)}; name the model's config.json with --config",
            "config",
        )
    for name, value in FIXED.items():
        if name in given and given[name] != value:
            raise UnsupportedCheckpoint(
                f"args: {name}={given[name]!r} cannot be converted; allowed: {value!r}"
            )
    hidden, heads = _count(given, "hidden_size"), _count(given, "num_attention_heads")
    grouped = given.get("group_query_attention", True) and given.get("num_query_groups")
    model_type = _type(given, hidden=hidden, heads=heads)
    return {
        "architectures": [str(CLASSES[model_type])],
        "model_type": model_type,
        "hidden_size": hidden,
        "num_hidden_layers": _count(given, "num_layers"),
        "num_attention_heads": heads,
        "num_key_value_heads": _count(given, "num_query_groups") if grouped else heads,
        "head_dim": _count(given, "kv_channels") if given.get("kv_channels") else hidden // heads,
        "intermediate_size": _count(given, "ffn_hidden_size"),
        "hidden_act": "silu",
        "rms_norm_eps": given["norm_epsilon"],
        "max_position_embeddings": _count(given, "max_position_embeddings"),
        "rope_parameters": _rope_parameters(given),
        "tie_word_embeddings": not given["untie_embeddings_and_output_weights"],
        "vocab_size": _count(given, "vocab_size"),
        "dtype": dtype,
        **dict.fromkeys(("bos_token_id", "eos_token_id")),  # Megatron's args do not contain them
        **_own(model_type, given),
    }


def check_consistent(args: Namespace | None, config: Mapping[str, JsonValue]) -> None:
    """Raises UnsupportedCheckpoint where the checkpoint's args contradict a config.json."""
    given, wanted = _spelled(args), args_of(config)
    for name in COMPARED:
        if given.get(name) is not None and given[name] != wanted[name]:
            raise UnsupportedCheckpoint(
                f"the checkpoint's args say {name}={given[name]!r}, its config.json means {wanted[name]!r}; "
                "name the config.json that belongs to the model with --config",
                "config",
            )


def _spelled(args: Namespace | None) -> dict[str, JsonValue]:
    """Returns args under their present names, with sequences as lists."""
    given: dict[str, JsonValue] = {} if args is None else dict(vars(args))
    for name, older in OLDER.items():
        if given.get(name) is None:
            given[name] = given.get(older)
    return {name: list(value) if isinstance(value, tuple) else value for name, value in given.items()}


def _type(given: Mapping[str, JsonValue], *, hidden: int, heads: int) -> str:
    """Returns the model type that computes what these args describe."""
    linear, qkv, norms = (
        bool(given.get(name)) for name in ("add_bias_linear", "add_qkv_bias", "qk_layernorm")
    )
    if norms and (linear or qkv):
        raise UnsupportedCheckpoint(
            "args: qk_layernorm with add_qkv_bias or add_bias_linear is no known type"
        )
    if norms:
        return "qwen3"
    if qkv and not linear:
        return "qwen2"
    windowed = given.get("window_size") is not None
    divides = row_for("llama").head_dim != "divides" or hidden % heads == 0
    if linear and (windowed or not divides):
        raise UnsupportedCheckpoint(
            "args: add_bias_linear with window_size, or with heads that do not divide hidden_size, is no "
            "known type"
        )
    return "mistral" if windowed or not divides else "llama"


def _own(model_type: str, given: Mapping[str, JsonValue]) -> dict[str, JsonValue]:
    """Returns the fields that only some of the types have."""
    if model_type == "llama":
        return {"attention_bias": given["add_bias_linear"], "mlp_bias": given["add_bias_linear"]}
    blocks, window = _count(given, "num_layers"), given.get("window_size")
    if not isinstance(window, list):
        none: dict[str, JsonValue] = {"sliding_window": None}
        return none if model_type == "mistral" else {**none, "use_sliding_window": False}
    if len(window) != 2 or not isinstance(window[0], int) or window[1] != 0:
        raise UnsupportedCheckpoint(f"args: window_size={window!r} is no window of a causal model")
    sliding = _sliding(given.get("window_attn_skip_freq"), blocks)
    if model_type == "mistral":
        if not all(sliding):
            raise UnsupportedCheckpoint(
                "args: window_attn_skip_freq leaves blocks without window: no known type"
            )
        return {"sliding_window": window[0] + 1}
    types = ["sliding_attention" if one else "full_attention" for one in sliding]
    return {
        "use_sliding_window": True,
        "sliding_window": window[0] + 1,
        "layer_types": cast(list[JsonValue], types),
        "max_window_layers": sliding.index(True) if True in sliding else blocks,
    }


def _sliding(skipped: JsonValue, blocks: int) -> list[bool]:
    """Returns for each block whether it has a window: all blocks, all but every n-th, or those of a list."""
    if skipped is None:
        return [True] * blocks
    if isinstance(skipped, int):
        return [(block + 1) % skipped != 0 for block in range(blocks)]
    if not isinstance(skipped, list) or len(skipped) != blocks:
        raise UnsupportedCheckpoint(
            f"args: window_attn_skip_freq={skipped!r} does not have one entry for each of {blocks} blocks"
        )
    return [bool(one) for one in skipped]


def _rope_parameters(given: Mapping[str, JsonValue]) -> dict[str, JsonValue]:
    if not given.get("use_rope_scaling"):
        return {"rope_type": "default", "rope_theta": given["rotary_base"]}
    factor = given.get("rope_scaling_factor") or 8.0
    return {"rope_type": "llama3", "rope_theta": given["rotary_base"], "factor": factor, **LLAMA3}


def _count(given: Mapping[str, JsonValue], name: str) -> int:
    value = given[name]
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise UnsupportedCheckpoint(f"args: {name} must be a number of at least 1, got {value!r}")
    return value
