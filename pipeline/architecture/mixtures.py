"""Mixtures of experts with something of their own, and latent attention: DeepSeek, GLM, MiniMax, GPT-OSS.

In latent attention keys and values, and often queries too, pass through a narrow layer before they become
heads. The narrow widths stay as they are; heads can be cut.
"""

from pipeline.architecture.axes import (
    ATTENTION,
    MLP,
    NORMS,
    OUTER,
    ROUTER,
    SHARED_EXPERTS,
    SIZES,
    Dimension,
    Labels,
    Size,
)
from pipeline.architecture.llama_like import ATTENTION_LINEARS, BY_ALL_HEADS, GATED, GATED_LABELS, WIDE_NORMS
from pipeline.architecture.parts import Ahead
from pipeline.architecture.row import Architecture, Experts, Format

_SHARED = (
    ("mlp.shared_experts.gate_proj", "mlp.shared_experts.up_proj"),
    ("mlp.shared_experts.down_proj",),
)
_EXPERTS = Experts(before=("mlp.shared_experts",))
_CORRECTED: Labels = {**ROUTER, "mlp.gate.e_score_correction_bias": ("experts",)}
_SIZES: dict[Size, str] = {
    **SIZES,
    "moe_intermediate_size": "moe_intermediate_size",
    "num_experts": "n_routed_experts",
}
# The FFN of an expert is what these types call intermediate_size, because no block has another one.
_EXPERTS_ALONE: dict[Size, str] = {
    **{size: name for size, name in SIZES.items() if size != "intermediate_size"},
    "moe_intermediate_size": "intermediate_size",
    "num_experts": "num_local_experts",
}
_AHEAD = Ahead("num_nextn_predict_layers")

_LATENT = (  # queries have a narrow layer of their own or not
    ("self_attn.q_a_proj", "self_attn.kv_a_proj_with_mqa"),
    ("self_attn.q_proj", "self_attn.kv_a_proj_with_mqa"),
    ("self_attn.q_b_proj",),
    ("self_attn.kv_b_proj",),
    ("self_attn.o_proj",),
    *GATED[2:],
    *_SHARED,
)
_LATENT_LABELS: Labels = {
    "self_attn.q_proj": ("latent_query", "hidden"),
    "self_attn.q_a_proj": ("query_rank", "hidden"),
    "self_attn.q_a_layernorm": ("query_rank",),
    "self_attn.q_b_proj": ("latent_query", "query_rank"),
    "self_attn.kv_a_proj_with_mqa": ("key_value_latent", "hidden"),
    "self_attn.kv_a_layernorm": ("key_value_rank",),
    "self_attn.kv_b_proj": ("latent_key_value", "key_value_rank"),
    "self_attn.o_proj": ("hidden", "latent_value"),
    **MLP,
    **NORMS,
    **SHARED_EXPERTS,
}
_LATENT_WIDTHS: dict[Dimension, tuple[tuple[str, ...], ...]] = {
    "latent_query": (
        ("num_attention_heads", "qk_nope_head_dim"),
        ("num_attention_heads", "qk_rope_head_dim"),
    ),
    "latent_key_value": (("num_attention_heads", "qk_nope_head_dim"), ("num_attention_heads", "v_head_dim")),
    "latent_value": (("num_attention_heads", "v_head_dim"),),
    "query_rank": (("q_lora_rank",),),
    "key_value_rank": (("kv_lora_rank",),),
    "key_value_latent": (("kv_lora_rank",), ("qk_rope_head_dim",)),
}


def _latent(
    model_type: str,
    router: Labels,
    *,
    by_block: tuple[str, ...] = ("layer_types",),
    ahead: Ahead | None = _AHEAD,
    quantized: tuple[Format, ...] = (),
) -> Architecture:
    """Returns the row of a type with latent attention."""
    return Architecture(
        model_type,
        "model.layers",
        _LATENT,
        {**_LATENT_LABELS, **router},
        OUTER,
        _SIZES,
        experts=_EXPERTS,
        head_dim="parts",
        by_block=by_block,
        widths=_LATENT_WIDTHS,
        shared_experts="n_shared_experts",
        ahead=ahead,
        quantized=quantized,
    )


MIXTURES = (
    Architecture(
        "glm4_moe",
        "model.layers",
        (*GATED, *_SHARED),
        {**GATED_LABELS, **_CORRECTED, **SHARED_EXPERTS},
        OUTER,
        _SIZES,
        experts=_EXPERTS,
        shared_experts="n_shared_experts",
        ahead=_AHEAD,
    ),
    _latent("glm4_moe_lite", _CORRECTED, by_block=("layer_types", "mlp_layer_types")),
    _latent("deepseek_v3", _CORRECTED, quantized=("fp8",)),
    _latent("deepseek_v2", ROUTER, ahead=None),
    Architecture(
        "minimax_m2",
        "model.layers",
        ATTENTION_LINEARS,
        {**ATTENTION, **WIDE_NORMS, **ROUTER, **NORMS, "mlp.e_score_correction_bias": ("experts",)},
        OUTER,
        _EXPERTS_ALONE,
        experts=Experts(stored="block_sparse_moe.experts", gate="w1", up="w3", down="w2"),
        renamed=(".mlp.", ".block_sparse_moe."),
        fixed=(BY_ALL_HEADS,),
        ahead=Ahead("num_mtp_modules"),
        quantized=("fp8",),
    ),
    Architecture(
        "gpt_oss",
        "model.layers",
        ATTENTION_LINEARS,
        {
            **ATTENTION,
            **NORMS,
            "self_attn.sinks": ("query_heads",),
            "mlp.router": ("experts", "hidden"),
        },
        OUTER,
        _EXPERTS_ALONE,
        experts=Experts(interleaved=True),
        quantized=("mxfp4",),
    ),
)
