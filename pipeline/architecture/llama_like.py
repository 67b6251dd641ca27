"""Llama and the types that resemble it: one line each, and what they have instead of Llama's parts.

What a type computes with its weights (multipliers, windows, blocks without positions, where norms stand,
activations) is the affair of transformers' class. A row says only what the weights are called, how their
dimensions belong together, and which of them a cut must leave alone.
"""

from typing import Literal

from pipeline.architecture.axes import ATTENTION, GATE_UP, MLP, NORMS, OUTER, SIZES, UP_DOWN, Labels, Size
from pipeline.architecture.row import Architecture, Fixed

QUERIES = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
ATTENTION_LINEARS = (QUERIES, ("self_attn.o_proj",))
GATED = (*ATTENTION_LINEARS, ("mlp.gate_proj", "mlp.up_proj"), ("mlp.down_proj",))
GATED_LABELS: Labels = {**ATTENTION, **MLP, **NORMS}

_FUSED = (*ATTENTION_LINEARS, ("mlp.gate_up_proj",), ("mlp.down_proj",))
_FUSED_LABELS: Labels = {**ATTENTION, **GATE_UP, **NORMS}
_PLAIN = (*ATTENTION_LINEARS, ("mlp.up_proj",), ("mlp.down_proj",))
_PLAIN_LABELS: Labels = {**ATTENTION, **UP_DOWN, **NORMS}

_HEADS: tuple[Size, ...] = ("num_attention_heads", "num_key_value_heads")
# OLMo's norms of queries and keys go over all heads at once.
WIDE_NORMS: Labels = {"self_attn.q_norm": ("query",), "self_attn.k_norm": ("key_value",)}
BY_ALL_HEADS = Fixed(
    _HEADS,
    "its queries and keys are divided by their norm over all heads, so that the heads that stay would change "
    "with those that go",
)
_BY_EACH_HEAD = Fixed(
    ("hidden_size", *_HEADS), "each of its heads has a norm in a module of its own", where="qk_layernorm"
)
_BY_HIDDEN = Fixed(
    ("hidden_size", *_HEADS),
    "the width of its norms of queries and keys is hidden_size / num_attention_heads, whatever head_dim is",
    where="qk_layernorm",
)


def llama_like(
    model_type: str,
    linears: tuple[tuple[str, ...], ...] = GATED,
    labels: Labels = GATED_LABELS,
    *,
    outer: Labels = OUTER,
    head_dim: Literal["free", "divides", "tied"] = "free",
    bos: Literal["every_window"] | None = None,
    fixed: tuple[Fixed, ...] = (),
    by_block: tuple[str, ...] = ("layer_types",),
) -> Architecture:
    """Returns the row of a type with Llama's names, but for what is given."""
    return Architecture(
        model_type,
        "model.layers",
        linears,
        labels,
        outer,
        SIZES,
        head_dim=head_dim,
        bos=bos,
        fixed=fixed,
        by_block=by_block,
    )


LLAMA_LIKE = (
    llama_like("llama", head_dim="divides"),
    llama_like("mistral"),
    llama_like("ministral"),
    llama_like("ministral3"),
    llama_like("qwen2"),
    llama_like("qwen3"),
    llama_like("gemma", bos="every_window"),  # Gemma's loss without BOS is that of noise
    llama_like("gemma2", bos="every_window"),
    llama_like("gemma3_text", bos="every_window"),
    llama_like("olmo2", labels={**GATED_LABELS, **WIDE_NORMS}, fixed=(BY_ALL_HEADS,)),
    llama_like("olmo3", labels={**GATED_LABELS, **WIDE_NORMS}, fixed=(BY_ALL_HEADS,)),
    llama_like("smollm3", by_block=("layer_types", "no_rope_layers")),
    llama_like("granite"),
    llama_like("seed_oss"),
    llama_like("ernie4_5"),
    llama_like("exaone4"),
    llama_like("cohere2"),
    llama_like("helium", head_dim="tied"),  # o_proj is made with hidden_size for both of its dimensions
    llama_like(
        "cohere",
        labels={
            **GATED_LABELS,
            "self_attn.q_norm": ("query_heads", "head_dim"),
            "self_attn.k_norm": ("key_value_heads", "head_dim"),
        },
    ),
    llama_like(
        "hunyuan_v1_dense",
        labels={
            **GATED_LABELS,
            "self_attn.query_layernorm": ("head_dim",),
            "self_attn.key_layernorm": ("head_dim",),
        },
    ),
    llama_like(
        "stablelm",
        labels={
            **GATED_LABELS,
            "self_attn.q_layernorm.norms": ("head_dim",),
            "self_attn.k_layernorm.norms": ("head_dim",),
        },
        head_dim="tied",
        fixed=(_BY_EACH_HEAD,),
    ),
    llama_like("glm", _FUSED, _FUSED_LABELS),
    llama_like("glm4", _FUSED, _FUSED_LABELS),
    llama_like("nemotron", _PLAIN, _PLAIN_LABELS),
    llama_like("arcee", _PLAIN, _PLAIN_LABELS, head_dim="divides"),
    llama_like(
        "apertus",
        _PLAIN,
        {
            **_PLAIN_LABELS,
            "attention_layernorm": ("hidden",),
            "feedforward_layernorm": ("hidden",),
            "mlp.act_fn": ("one",),
            "mlp.act_fn.beta": (),
            "mlp.act_fn.eps": (),
        },
    ),
    llama_like(
        "starcoder2",
        (*ATTENTION_LINEARS, ("mlp.c_fc",), ("mlp.c_proj",)),
        {**ATTENTION, **NORMS, "mlp.c_fc": ("ffn", "hidden"), "mlp.c_proj": ("hidden", "ffn")},
    ),
    llama_like(
        "phi",
        (QUERIES, ("self_attn.dense",), ("mlp.fc1",), ("mlp.fc2",)),
        {
            **ATTENTION,
            **NORMS,
            "self_attn.dense": ("hidden", "query"),
            "self_attn.q_layernorm": ("head_dim",),
            "self_attn.k_layernorm": ("head_dim",),
            "mlp.fc1": ("ffn", "hidden"),
            "mlp.fc2": ("hidden", "ffn"),
        },
        outer={**OUTER, "model.final_layernorm": ("hidden",)},
        fixed=(_BY_HIDDEN,),
    ),
    llama_like(
        "phi3",
        (("self_attn.qkv_proj",), ("self_attn.o_proj",), ("mlp.gate_up_proj",), ("mlp.down_proj",)),
        {**_FUSED_LABELS, "self_attn.qkv_proj": ("qkv", "hidden")},
    ),
)

# The layouts by the names that they have here, for whoever proposes a line.
LAYOUTS = {
    "GATED": (GATED, GATED_LABELS),
    "_FUSED": (_FUSED, _FUSED_LABELS),
    "_PLAIN": (_PLAIN, _PLAIN_LABELS),
}
