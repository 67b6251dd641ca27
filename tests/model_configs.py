"""A tiny configuration of each known model type, and variants of types whose blocks depend on a setting."""

from typing import Any, Literal, get_args

from transformers import AutoConfig, PretrainedConfig

from tests.hybrid_configs import HYBRID
from tests.llama_like_configs import LLAMA_LIKE
from tests.own_configs import OWN

Kind = Literal[
    "llama",
    "mistral",
    "qwen2",
    "qwen3",
    "opt",
    "gpt2",
    "gemma2",
    "gemma3_text",
    "phi3",
    "gpt_neox",
    "falcon",
    "bloom",
    "mixtral",
    "qwen2_moe",
    "qwen3_moe",
]
KINDS: tuple[Kind, ...] = get_args(Kind)
MIXTURES: tuple[Kind, ...] = ("mixtral", "qwen2_moe", "qwen3_moe")
DENSE: tuple[Kind, ...] = tuple(kind for kind in KINDS if kind not in MIXTURES)

VOCABULARY = 384  # the 256 bytes, the specials, and a hundred merges
POSITIONS = 128
WINDOW = 8  # tokens of sliding attention: fewer than in most sequences of tests, more than in the shortest

_SLIDING = {"use_sliding_window": True, "sliding_window": WINDOW, "max_window_layers": 1}
VARIANTS: dict[str, tuple[Kind, dict[str, Any]]] = {
    "mistral-sliding": ("mistral", {"sliding_window": WINDOW}),
    "qwen2-sliding": ("qwen2", _SLIDING),
    "qwen3-sliding": ("qwen3", _SLIDING),
    "phi3-sliding": ("phi3", {"sliding_window": WINDOW}),
    # as in OPT 350M: norms after the blocks, and an embedding that is narrower than they are
    "opt-post-norm": ("opt", {"do_layer_norm_before": False, "word_embed_proj_dim": 32}),
    "gpt_neox-sequential": ("gpt_neox", {"use_parallel_residual": False, "attention_bias": False}),
    "falcon-grouped": ("falcon", {"new_decoder_architecture": True, "num_kv_heads": 2}),
    "falcon-one-norm": (
        "falcon",
        {"new_decoder_architecture": True, "num_kv_heads": 2, "num_ln_in_parallel_attn": 1},
    ),
    "falcon-alibi": ("falcon", {"alibi": True, "multi_query": False, "parallel_attn": False, "bias": True}),
    "mixtral-sliding": ("mixtral", {"sliding_window": WINDOW}),
    "qwen2_moe-mixed": ("qwen2_moe", {"mlp_only_layers": [0]}),
    "qwen3_moe-mixed": ("qwen3_moe", {"decoder_sparse_step": 2, "norm_topk_prob": True}),
    "bloom-post-norm": ("bloom", {"apply_residual_connection_post_layernorm": True}),
}
FAMILIES = {**LLAMA_LIKE, **OWN, **HYBRID}
EVERY: tuple[str, ...] = (*KINDS, *VARIANTS)


def kind_of(name: str) -> str:
    """The model type of a kind or variant."""
    if name in FAMILIES:
        return FAMILIES[name][0]
    return VARIANTS[name][0] if name in VARIANTS else _kind(name)


def _kind(name: str) -> Kind:
    return next(kind for kind in KINDS if kind == name)


def tiny_config(name: str) -> PretrainedConfig:
    """A model of hidden size 64 with 2 or 4 blocks. Llama, Gemma, Falcon and BLOOM tie embeddings."""
    common: dict[str, Any] = {
        "vocab_size": VOCABULARY,
        "bos_token_id": 0,
        "eos_token_id": 1,
        "pad_token_id": 1,
        "initializer_range": 0.1,  # weights as small as the default make all logits equal
    }
    if name in FAMILIES:
        kind, changed = FAMILIES[name]
        return AutoConfig.for_model(kind, **{**common, **changed})
    base, changed = VARIANTS.get(name) or (_kind(name), {})
    return AutoConfig.for_model(base, **{**common, **_own(base), **changed})


def _own(kind: Kind) -> dict[str, Any]:
    if kind == "opt":
        sizes = {"num_hidden_layers": 2, "hidden_size": 64, "ffn_dim": 128, "num_attention_heads": 4}
        positions = {"max_position_embeddings": POSITIONS, "word_embed_proj_dim": 64}
        return {**sizes, **positions, "dropout": 0.0, "attention_dropout": 0.0, "init_std": 0.1}
    if kind == "gpt2":
        sizes = {"n_layer": 2, "n_embd": 64, "n_inner": 128, "n_head": 4, "n_positions": POSITIONS}
        return {**sizes, "resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    if kind == "bloom":
        return {"n_layer": 2, "hidden_size": 64, "n_head": 4, "seq_length": POSITIONS}
    own = {
        "hidden_size": 64,
        "num_hidden_layers": 4 if kind == "llama" else 2,
        "num_attention_heads": 4,
        "max_position_embeddings": POSITIONS,
    }
    if kind == "falcon":
        return {**own, "ffn_hidden_size": 128}
    own["intermediate_size"] = 128
    if kind == "gpt_neox":
        return own
    own |= {
        "num_key_value_heads": 4 if kind == "mistral" else 2,
        "tie_word_embeddings": kind in ("llama", "gemma2", "gemma3_text"),
    }
    if kind == "phi3":  # it has no head_dim, and the pad token is at the end, as in real ones
        return {**own, "pad_token_id": VOCABULARY - 1, "original_max_position_embeddings": POSITIONS}
    own["head_dim"] = 16
    if kind in ("gemma2", "gemma3_text"):
        types = ["sliding_attention", "full_attention"]
        return {**own, "sliding_window": WINDOW, "query_pre_attn_scalar": 16, "layer_types": types}
    if kind == "mixtral":
        return {**own, "intermediate_size": 32, "num_local_experts": 4, "num_experts_per_tok": 2}
    if kind in MIXTURES:
        own |= {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
        return {**own, "shared_expert_intermediate_size": 48} if kind == "qwen2_moe" else own
    return own
