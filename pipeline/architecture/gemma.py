"""Gemma 4 and Gemma 3n: heads of two widths, inputs of every block's own, keys and values that blocks share.

The sizes of inputs by block are `own`: no cut changes them. The linears through which a block reads its
inputs are small, and stay dense.
"""

from pipeline.architecture.axes import MLP, NORMS, OUTER, SIZES, Labels, Size
from pipeline.architecture.llama_like import GATED, GATED_LABELS
from pipeline.architecture.parts import Beside
from pipeline.architecture.row import Architecture, Fixed

_HEADS: tuple[Size, ...] = ("num_attention_heads", "num_key_value_heads")

# Blocks with full attention have wider heads, fewer key-value heads, and in the largest models no v_proj.
_TWO_WIDTHS: Labels = {
    "self_attn.q_proj": ("own", "hidden"),
    "self_attn.k_proj": ("own", "hidden"),
    "self_attn.v_proj": ("own", "hidden"),
    "self_attn.o_proj": ("hidden", "own"),
    "self_attn.q_norm": ("own",),
    "self_attn.k_norm": ("own",),
}
# Gemma's inputs by block: a table with a row for each token, and a share of it for every block.
_INPUTS: Labels = {
    "per_layer_input_gate": ("own", "hidden"),
    "per_layer_projection": ("hidden", "own"),
    "post_per_layer_input_norm": ("hidden",),
}
_TABLE: Labels = {
    "model.embed_tokens_per_layer": ("vocabulary", "own"),
    "model.per_layer_model_projection": ("own", "hidden"),
    "model.per_layer_projection_norm": ("own",),
}
_SHARED_KEYS = Fixed(
    ("num_hidden_layers",),
    "its last blocks read the keys and values of earlier ones, which must not go",
    where="num_kv_shared_layers",
)

_GEMMA4 = Architecture(
    "gemma4_text",
    "model.layers",
    GATED,
    {
        **_TWO_WIDTHS,
        **MLP,
        **NORMS,
        **_INPUTS,
        "layer_scalar": ("one",),
        # A model with experts is refused for them, and not for scales that look like a quantizer's.
        "router.scale": ("hidden",),
        "router.per_expert_scale": ("own",),
    },
    {**OUTER, **_TABLE},
    SIZES,
    beside=Beside(0, "hidden_size_per_layer_input", "model.embed_tokens_per_layer", "shared_kv_states"),
    follows_vocabulary=("vocab_size_per_layer_input",),
    fixed=(
        Fixed(_HEADS, "its blocks with full attention have heads of another width and number"),
        Fixed(
            ("intermediate_size",),
            "the FFN of its last blocks is twice as wide",
            where="use_double_wide_mlp",
            varies=True,
        ),
        _SHARED_KEYS,
        Fixed(
            ("num_hidden_layers",),
            "its table of inputs holds those of all blocks side by side",
            where="hidden_size_per_layer_input",
            unsaid=256,
        ),
    ),
    numbered=("per_layer_config",),
    bos="every_window",
)

_GEMMA3N = Architecture(
    "gemma3n_text",
    "model.layers",
    GATED,
    {
        **GATED_LABELS,
        "mlp.gate_proj": ("own", "hidden"),
        "mlp.up_proj": ("own", "hidden"),
        "mlp.down_proj": ("hidden", "own"),
        **_INPUTS,
        "laurel.linear_left": ("own", "hidden"),
        "laurel.linear_right": ("hidden", "own"),
        "laurel.post_laurel_norm": ("hidden",),
        "altup.correct_output_scale": ("hidden",),
        "altup.correction_coefs": ("own", "own"),
        "altup.prediction_coefs": ("own", "own"),
        "altup.modality_router": ("own", "hidden"),
        "altup.router_norm": ("hidden",),
    },
    {
        **OUTER,
        **_TABLE,
        "model.embed_tokens_per_layer": ("own", "own"),  # it lacks the tokens of images and sounds
        "model.altup_projections": ("hidden", "hidden"),
        "model.altup_unembed_projections": ("hidden", "hidden"),
    },
    {size: name for size, name in SIZES.items() if size != "intermediate_size"},
    beside=Beside(
        1,
        "hidden_size_per_layer_input",
        "model.embed_tokens_per_layer",
        "shared_kv_states",
        "altup_num_inputs",
    ),
    fixed=(
        Fixed(("hidden_size",), "several hidden states of a token predict each other"),
        Fixed(_HEADS, "its last blocks read the keys and values of earlier ones, whose heads would differ"),
        Fixed(("intermediate_size",), "config.json states it block by block"),
        Fixed(("vocab_size",), "its table of inputs by block has rows for fewer tokens"),
        Fixed(("num_hidden_layers",), "its table of inputs holds those of all blocks side by side"),
    ),
    bos="every_window",
)

GEMMA = (_GEMMA4, _GEMMA3N)
