"""Types whose blocks are not all alike: attention, state spaces or convolutions, experts in some blocks.

The sizes of state spaces and convolutions are `own`: no cut changes them. Their linears are pruned like all
others.
"""

from pipeline.architecture.axes import OUTER, SIZES, Labels
from pipeline.architecture.llama_like import ATTENTION_LINEARS, GATED_LABELS, QUERIES
from pipeline.architecture.parts import Ahead
from pipeline.architecture.row import Architecture, Experts, Fixed


def _state_space(module: str) -> Labels:
    """Returns the labels of a Mamba-2 mixer, by the name of its module in the block."""
    linears: Labels = {f"{module}.in_proj": ("own", "hidden"), f"{module}.out_proj": ("hidden", "own")}
    others = ("conv1d.bias", "dt_bias", "A_log", "D", "norm")
    return {
        **linears,
        **{f"{module}.{name}": ("own",) for name in others},
        f"{module}.conv1d": ("own", "one", "own"),
    }


_NEMOTRON_H = Architecture(
    "nemotron_h",
    "model.layers",
    (
        ("mixer.in_proj",),
        ("mixer.out_proj",),
        ("mixer.q_proj", "mixer.k_proj", "mixer.v_proj"),
        ("mixer.o_proj",),
        ("mixer.up_proj",),
        ("mixer.down_proj",),
        ("mixer.fc1_latent_proj",),
        ("mixer.fc2_latent_proj",),
        ("mixer.shared_experts.up_proj",),
        ("mixer.shared_experts.down_proj",),
    ),
    {
        **_state_space("mixer"),
        "mixer.q_proj": ("query", "hidden"),
        "mixer.k_proj": ("key_value", "hidden"),
        "mixer.v_proj": ("key_value", "hidden"),
        "mixer.o_proj": ("hidden", "query"),
        "mixer.up_proj": ("ffn", "hidden"),
        "mixer.down_proj": ("hidden", "ffn"),
        "mixer.gate": ("experts", "hidden"),
        "mixer.gate.e_score_correction_bias": ("experts",),
        "mixer.fc1_latent_proj": ("own", "hidden"),
        "mixer.fc2_latent_proj": ("hidden", "own"),
        "mixer.shared_experts.up_proj": ("shared_ffn", "hidden"),
        "mixer.shared_experts.down_proj": ("hidden", "shared_ffn"),
        "norm": ("hidden",),
    },
    {
        "model.embeddings": ("vocabulary", "hidden"),
        "model.norm_f": ("hidden",),
        "lm_head": ("vocabulary", "hidden"),
    },
    {
        **SIZES,
        "num_experts": "n_routed_experts",
        "moe_intermediate_size": "moe_intermediate_size",
        "shared_expert_intermediate_size": "moe_shared_expert_intermediate_size",
    },
    experts=Experts(
        module="mixer.experts",
        stored="mixer.experts",
        gate=None,
        before=("mixer.fc2_latent_proj", "mixer.shared_experts"),
    ),
    renamed=("model.", "backbone."),
    ahead=Ahead("num_nextn_predict_layers", "mtp."),
    fixed=(
        Fixed(
            ("hidden_size",),
            "its experts read and write vectors of a width of their own",
            where="moe_latent_size",
            varies=True,
        ),
    ),
    by_block=("layers_block_type", "hybrid_override_pattern"),
    not_adapted=("mixer.out_proj", "mixer.fc1_latent_proj", "mixer.fc2_latent_proj"),
    pads_embedding=False,
)

_GRANITE = Architecture(
    "granitemoehybrid",
    "model.layers",
    (
        ("mamba.in_proj",),
        ("mamba.out_proj",),
        *ATTENTION_LINEARS,
        ("shared_mlp.input_linear",),
        ("shared_mlp.output_linear",),
    ),
    {
        **_state_space("mamba"),
        **GATED_LABELS,
        "shared_mlp.input_linear": ("gate_up", "hidden"),
        "shared_mlp.output_linear": ("hidden", "ffn"),
    },
    OUTER,
    {**SIZES, "intermediate_size": "shared_intermediate_size"},
    fixed=(Fixed(("hidden_size",), "its state spaces are mamba_expand times as wide as hidden_size"),),
    not_adapted=("mamba.out_proj",),
)

_LFM2 = Architecture(
    "lfm2",
    "model.layers",
    (
        ("conv.in_proj",),
        ("conv.out_proj",),
        QUERIES,
        ("self_attn.out_proj",),
        ("feed_forward.w1", "feed_forward.w3"),
        ("feed_forward.w2",),
    ),
    {
        "conv.in_proj": ("own", "hidden"),
        "conv.out_proj": ("hidden", "own"),
        "conv.conv": ("own", "one", "own"),
        "conv.conv.bias": ("own",),
        "self_attn.q_proj": ("query", "hidden"),
        "self_attn.k_proj": ("key_value", "hidden"),
        "self_attn.v_proj": ("key_value", "hidden"),
        "self_attn.out_proj": ("hidden", "query"),
        "self_attn.q_layernorm": ("head_dim",),
        "self_attn.k_layernorm": ("head_dim",),
        "feed_forward.w1": ("own", "hidden"),
        "feed_forward.w3": ("own", "hidden"),
        "feed_forward.w2": ("hidden", "own"),
        "operator_norm": ("hidden",),
        "ffn_norm": ("hidden",),
    },
    {**OUTER, "model.embedding_norm": ("hidden",)},
    SIZES,
    fixed=(
        Fixed(("hidden_size",), "its convolutions go over as many channels as hidden_size, but not the same"),
        Fixed(
            ("intermediate_size",),
            "its FFN is as wide as block_ffn_dim_multiplier and block_multiple_of make of intermediate_size",
        ),
    ),
    numbered=("full_attn_idxs",),
)

_FALCON_H1 = Architecture(
    "falcon_h1",
    "model.layers",
    (
        ("mamba.in_proj",),
        ("mamba.out_proj",),
        *ATTENTION_LINEARS,
        ("feed_forward.gate_proj", "feed_forward.up_proj"),
        ("feed_forward.down_proj",),
    ),
    {
        **_state_space("mamba"),
        **GATED_LABELS,
        "feed_forward.gate_proj": ("ffn", "hidden"),
        "feed_forward.up_proj": ("ffn", "hidden"),
        "feed_forward.down_proj": ("hidden", "ffn"),
        "pre_ff_layernorm": ("hidden",),
    },
    {**OUTER, "model.final_layernorm": ("hidden",)},
    SIZES,
    in_tuple=True,
    by_block=(),
    not_adapted=("mamba.out_proj",),
)

_LLAMA4 = Architecture(
    "llama4_text",
    "model.layers",
    (
        *ATTENTION_LINEARS,
        ("feed_forward.gate_proj", "feed_forward.up_proj"),
        ("feed_forward.down_proj",),
        ("feed_forward.shared_expert.gate_proj", "feed_forward.shared_expert.up_proj"),
        ("feed_forward.shared_expert.down_proj",),
    ),
    {
        **GATED_LABELS,
        "feed_forward.gate_proj": ("ffn", "hidden"),
        "feed_forward.up_proj": ("ffn", "hidden"),
        "feed_forward.down_proj": ("hidden", "ffn"),
        "feed_forward.router": ("experts", "hidden"),
        "feed_forward.shared_expert.gate_proj": ("own", "hidden"),
        "feed_forward.shared_expert.up_proj": ("own", "hidden"),
        "feed_forward.shared_expert.down_proj": ("hidden", "own"),
    },
    OUTER,
    {
        **SIZES,
        "intermediate_size": "intermediate_size_mlp",
        "moe_intermediate_size": "intermediate_size",
        "num_experts": "num_local_experts",
    },
    experts=Experts(
        module="feed_forward.experts",
        stored="feed_forward.experts",
        scaled=True,
        before=("feed_forward.shared_expert",),
    ),
    fixed=(Fixed(("moe_intermediate_size",), "it is the width of the shared expert as well"),),
    by_block=("layer_types", "no_rope_layers"),
    numbered=("moe_layers",),
)

HYBRID = (_NEMOTRON_H, _GRANITE, _LFM2, _FALCON_H1, _LLAMA4)
