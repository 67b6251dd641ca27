"""The blocks, linears and dimensions of each model type: one row of data each.

A new type is a new row, here or in the file of its family; one that resembles Llama is a line of
llama_like.py, one that resembles T5 a line of encoder_decoder.py. Modules are named relative to the model
with its head (`blocks`, `outer`) or to one block (`linears`, `inner`).
"""

from collections.abc import Iterator
from contextlib import contextmanager

from pipeline.architecture.axes import (
    ATTENTION,
    FOUR_H,
    NORMS,
    OUTER,
    ROUTER,
    SHARED_EXPERT,
    SIZES,
    UNGROUPED,
    Labels,
)
from pipeline.architecture.encoder_decoder import ENCODER_DECODERS
from pipeline.architecture.gemma import GEMMA
from pipeline.architecture.hybrid import HYBRID
from pipeline.architecture.linear_attention import LINEAR_ATTENTION
from pipeline.architecture.llama_like import ATTENTION_LINEARS, GATED, GATED_LABELS, LLAMA_LIKE
from pipeline.architecture.mixtures import MIXTURES
from pipeline.architecture.row import Architecture, Experts
from pipeline.errors import UnsupportedModel

# The config decides whether attention and MLP of NeoX and Falcon share an input: separate groups are right
# in any case. (BLOOM's never share one.)
_MEGATRON = (("mlp.dense_h_to_4h",), ("mlp.dense_4h_to_h",))
_SELF_ATTENTION: Labels = {
    "self_attention.query_key_value": ("qkv_by_group", "hidden"),
    "self_attention.dense": ("hidden", "query"),
}
_EMBEDDINGS: Labels = {
    "transformer.word_embeddings": ("vocabulary", "hidden"),
    "transformer.word_embeddings_layernorm": ("hidden",),
    "transformer.ln_f": ("hidden",),
    "lm_head": ("vocabulary", "hidden"),
}

ROWS = {
    row.model_type: row
    for row in (
        *LLAMA_LIKE,
        *ENCODER_DECODERS,
        *GEMMA,
        *HYBRID,
        *LINEAR_ATTENTION,
        *MIXTURES,
        Architecture(
            "mixtral",
            "model.layers",
            ATTENTION_LINEARS,
            {**ATTENTION, **ROUTER, **NORMS},
            OUTER,
            {
                **{size: name for size, name in SIZES.items() if size != "intermediate_size"},
                "moe_intermediate_size": "intermediate_size",
                "num_experts": "num_local_experts",
            },
            experts=Experts(stored="block_sparse_moe.experts", gate="w1", up="w3", down="w2"),
            renamed=(".mlp.", ".block_sparse_moe."),
        ),
        Architecture(  # blocks without experts have an ordinary MLP
            "qwen2_moe",
            "model.layers",
            (
                *GATED,
                ("mlp.shared_expert.gate_proj", "mlp.shared_expert.up_proj"),
                ("mlp.shared_expert.down_proj",),
            ),
            {**GATED_LABELS, **ROUTER, **SHARED_EXPERT},
            OUTER,
            {
                **SIZES,
                "moe_intermediate_size": "moe_intermediate_size",
                "shared_expert_intermediate_size": "shared_expert_intermediate_size",
                "num_experts": "num_experts",
            },
            experts=Experts(),
        ),
        Architecture(
            "qwen3_moe",
            "model.layers",
            GATED,
            {**GATED_LABELS, **ROUTER},
            OUTER,
            {**SIZES, "moe_intermediate_size": "moe_intermediate_size", "num_experts": "num_local_experts"},
            experts=Experts(),
        ),
        Architecture(
            "opt",
            "model.decoder.layers",
            (
                ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
                ("self_attn.out_proj",),
                ("fc1",),
                ("fc2",),
            ),
            {
                **{name: labels for name, labels in ATTENTION.items() if name != "self_attn.o_proj"},
                "self_attn.out_proj": ("hidden", "query"),
                "fc1": ("ffn", "hidden"),
                "fc2": ("hidden", "ffn"),
                "self_attn_layer_norm": ("hidden",),
                "final_layer_norm": ("hidden",),
            },
            {
                "model.decoder.embed_tokens": ("vocabulary", "embedding"),
                "model.decoder.embed_positions": ("positions", "hidden"),
                "model.decoder.project_in": ("hidden", "embedding"),
                "model.decoder.project_out": ("embedding", "hidden"),
                "model.decoder.final_layer_norm": ("hidden",),
                "lm_head": ("vocabulary", "embedding"),
            },
            {**UNGROUPED, "intermediate_size": "ffn_dim"},
            head_dim="tied",
            follows_hidden=("word_embed_proj_dim",),
        ),
        Architecture(
            "gpt2",
            "transformer.h",
            (("attn.c_attn",), ("attn.c_proj",), ("mlp.c_fc",), ("mlp.c_proj",)),
            {
                "attn.c_attn": ("hidden", "qkv"),
                "attn.c_proj": ("query", "hidden"),
                "mlp.c_fc": ("hidden", "ffn"),
                "mlp.c_proj": ("ffn", "hidden"),
                "ln_1": ("hidden",),
                "ln_2": ("hidden",),
            },
            {
                "transformer.wte": ("vocabulary", "hidden"),
                "transformer.wpe": ("positions", "hidden"),
                "transformer.ln_f": ("hidden",),
                "lm_head": ("vocabulary", "hidden"),
            },
            {
                "hidden_size": "n_embd",
                "num_hidden_layers": "n_layer",
                "num_attention_heads": "n_head",
                "intermediate_size": "n_inner",
                "vocab_size": "vocab_size",
            },
            transposed=True,
            positions_key="n_positions",
            head_dim="tied",
            pads_embedding=False,
        ),
        Architecture(
            "gpt_neox",
            "gpt_neox.layers",
            (("attention.query_key_value",), ("attention.dense",), *_MEGATRON),
            {
                "attention.query_key_value": ("qkv_by_group", "hidden"),
                "attention.dense": ("hidden", "query"),
                **FOUR_H,
            },
            {
                "gpt_neox.embed_in": ("vocabulary", "hidden"),
                "gpt_neox.final_layer_norm": ("hidden",),
                "lm_head": ("vocabulary", "hidden"),
            },
            UNGROUPED,
            renamed=("lm_head.", "embed_out."),
            head_dim="tied",
            pads_embedding=False,
        ),
        Architecture(
            "falcon",
            "transformer.h",
            (("self_attention.query_key_value",), ("self_attention.dense",), *_MEGATRON),
            {**_SELF_ATTENTION, **FOUR_H, "ln_attn": ("hidden",), "ln_mlp": ("hidden",)},
            _EMBEDDINGS,
            {**SIZES, "intermediate_size": "ffn_hidden_size", "num_key_value_heads": "num_kv_heads"},
            in_tuple=True,
            head_dim="tied",
            grouped="new_decoder_architecture",
            one_key_value="multi_query",
            pads_embedding=False,
        ),
        Architecture(
            "bloom",
            "transformer.h",
            (("self_attention.query_key_value",), ("self_attention.dense",), *_MEGATRON),
            {**_SELF_ATTENTION, **FOUR_H},
            _EMBEDDINGS,
            {
                "hidden_size": "hidden_size",
                "num_hidden_layers": "n_layer",
                "num_attention_heads": "n_head",
                "vocab_size": "vocab_size",
            },
            in_tuple=True,
            positions_key="seq_length",  # not in every config, because ALiBi has no limit of its own
            head_dim="tied",
            pads_embedding=False,
        ),
    )
}


@contextmanager
def trying(row: Architecture) -> Iterator[None]:
    """Makes a row that is proposed known while the block runs, to this process only."""
    assert row.model_type not in ROWS, "a known type has nothing to try"
    ROWS[row.model_type] = row
    try:
        yield
    finally:
        del ROWS[row.model_type]


def row_for(model_type: str) -> Architecture:
    """Returns the row of a model type. Raises UnsupportedModel with the whole list: the type is what a file
    states, so that a similar name would be a different model and no slip of the pen."""
    row = ROWS.get(model_type)
    if row is None:
        raise UnsupportedModel(
            f"model type {model_type!r} has no row in pipeline/architecture/rows.py; known types: "
            f"{', '.join(sorted(ROWS))}",
            "spec.model.source",
        )
    return row
