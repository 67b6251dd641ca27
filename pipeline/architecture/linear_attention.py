"""Qwen3-Next and Qwen3.5: three of four blocks have linear attention, a gated delta rule.

The projections of linear attention are pruned; its convolution and the numbers that say how fast it forgets
stay, and so do its heads. In the other blocks each query head has an output gate, in the rows after its
query.
"""

from pipeline.architecture.axes import (
    ATTENTION,
    MLP,
    NORMS,
    OUTER,
    ROUTER,
    SHARED_EXPERT,
    SIZES,
    Dimension,
    Labels,
    Size,
)
from pipeline.architecture.llama_like import GATED
from pipeline.architecture.parts import Ahead
from pipeline.architecture.row import Architecture, Experts

_KINDS = {"linear_attention": "linear_attn.", "full_attention": "self_attn."}
_GATED_ATTENTION: Labels = {**ATTENTION, "self_attn.q_proj": ("gated_query", "hidden")}
_DELTA: Labels = {
    "linear_attn.conv1d": ("delta_qkv", "one", "kernel"),
    "linear_attn.dt_bias": ("delta_heads",),
    "linear_attn.A_log": ("delta_heads",),
    "linear_attn.norm": ("delta_head_dim",),
    "linear_attn.out_proj": ("hidden", "delta_value"),
}
_DELTA_TOGETHER: Labels = {
    **_DELTA,
    "linear_attn.in_proj_qkvz": ("delta_qkvz", "hidden"),
    "linear_attn.in_proj_ba": ("delta_gates", "hidden"),
}
_DELTA_APART: Labels = {
    **_DELTA,
    "linear_attn.in_proj_qkv": ("delta_qkv", "hidden"),
    "linear_attn.in_proj_z": ("delta_value", "hidden"),
    "linear_attn.in_proj_b": ("delta_heads", "hidden"),
    "linear_attn.in_proj_a": ("delta_heads", "hidden"),
}
_TOGETHER = (
    ("linear_attn.in_proj_qkvz", "linear_attn.in_proj_ba"),
    ("linear_attn.out_proj",),
)
_APART = (
    (
        "linear_attn.in_proj_qkv",
        "linear_attn.in_proj_z",
        "linear_attn.in_proj_b",
        "linear_attn.in_proj_a",
    ),
    ("linear_attn.out_proj",),
)
_SHARED = (
    ("mlp.shared_expert.gate_proj", "mlp.shared_expert.up_proj"),
    ("mlp.shared_expert.down_proj",),
)
_KEYS = ("linear_num_key_heads", "linear_key_head_dim")
_VALUES = ("linear_num_value_heads", "linear_value_head_dim")
_HEADS = ("linear_num_value_heads",)
_WIDTHS: dict[Dimension, tuple[tuple[str, ...], ...]] = {
    "delta_qkvz": (_KEYS, _KEYS, _VALUES, _VALUES),
    "delta_qkv": (_KEYS, _KEYS, _VALUES),
    "delta_value": (_VALUES,),
    "delta_gates": (_HEADS, _HEADS),
    "delta_heads": (_HEADS,),
}
_OF_EXPERTS: dict[Size, str] = {
    "moe_intermediate_size": "moe_intermediate_size",
    "shared_expert_intermediate_size": "shared_expert_intermediate_size",
    "num_experts": "num_experts",
}

LINEAR_ATTENTION = (
    Architecture(
        "qwen3_next",
        "model.layers",
        (*_TOGETHER, *GATED, *_SHARED),
        {**_GATED_ATTENTION, **_DELTA_TOGETHER, **MLP, **NORMS, **ROUTER, **SHARED_EXPERT},
        OUTER,
        {**SIZES, **_OF_EXPERTS},
        experts=Experts(),
        widths=_WIDTHS,
        ahead=Ahead("mtp_num_hidden_layers", prefix="mtp."),
        kinds=_KINDS,
    ),
    Architecture(
        "qwen3_5_text",
        "model.layers",
        (*_APART, *GATED),
        {**_GATED_ATTENTION, **_DELTA_APART, **MLP, **NORMS},
        OUTER,
        SIZES,
        widths=_WIDTHS,
        ahead=Ahead("mtp_num_hidden_layers", prefix="mtp."),
        kinds=_KINDS,
    ),
    Architecture(  # every block has experts
        "qwen3_5_moe_text",
        "model.layers",
        (*_APART, *GATED[:2], *_SHARED),
        {**_GATED_ATTENTION, **_DELTA_APART, **NORMS, **ROUTER, **SHARED_EXPERT},
        OUTER,
        {**{size: name for size, name in SIZES.items() if size != "intermediate_size"}, **_OF_EXPERTS},
        experts=Experts(),
        widths=_WIDTHS,
        ahead=Ahead("mtp_num_hidden_layers", prefix="mtp."),
        kinds=_KINDS,
    ),
)
