"""T5 and its kin: an encoder and a decoder with blocks of their own, and one embedding for both.

Blocks of the encoder and of the decoder differ in their cross-attention, and models of one type in whether
their MLP has a gate. A row lists the linears of all of them; a block has those that it stores.
"""

from collections.abc import Mapping

from pipeline.architecture.axes import Labels
from pipeline.architecture.parts import Decoder, Feature
from pipeline.architecture.row import Architecture, Fixed

_SELF, _CROSS = "layer.0.SelfAttention", "layer.1.EncDecAttention"
_MLPS = ("layer.1.DenseReluDense", "layer.2.DenseReluDense")  # of encoder blocks, and of decoder blocks

_LINEARS = (
    (f"{_SELF}.q", f"{_SELF}.k", f"{_SELF}.v"),
    (f"{_SELF}.o",),
    (f"{_CROSS}.q",),
    (f"{_CROSS}.k", f"{_CROSS}.v"),  # they read what the encoder gives
    (f"{_CROSS}.o",),
    *(group for mlp in _MLPS for group in ((f"{mlp}.wi",), (f"{mlp}.wi_0", f"{mlp}.wi_1"), (f"{mlp}.wo",))),
)


def _attention(module: str) -> Labels:
    return {
        **{f"{module}.{name}": ("query", "hidden") for name in ("q", "k", "v")},
        f"{module}.o": ("hidden", "query"),
    }


def _mlp(module: str) -> Labels:
    entering: Labels = {f"{module}.{name}": ("ffn", "hidden") for name in ("wi", "wi_0", "wi_1")}
    return {**entering, f"{module}.wo": ("hidden", "ffn")}


_INNER: Labels = {
    **_attention(_SELF),
    **_attention(_CROSS),
    **_mlp(_MLPS[0]),
    **_mlp(_MLPS[1]),
    f"{_SELF}.relative_attention_bias": ("positions", "query_heads"),
    **{f"layer.{number}.layer_norm": ("hidden",) for number in range(3)},
}
_OUTER: Labels = {
    "shared": ("vocabulary", "hidden"),
    "encoder.embed_tokens": ("vocabulary", "hidden"),
    "decoder.embed_tokens": ("vocabulary", "hidden"),
    "encoder.final_layer_norm": ("hidden",),
    "decoder.final_layer_norm": ("hidden",),
    "lm_head": ("vocabulary", "hidden"),
}

_LACKS: Mapping[Feature, str] = {
    "recovery": "training feeds one sequence to one stack of blocks, and an encoder-decoder needs pairs",
    "learned_masks": "masks are learned by training, which feeds one sequence to one stack of blocks",
    "reconstruction": "the distance of a block would count what the other stack holds as well",
    "spaced": "its encoder and its decoder have ends of their own; name the blocks, or use block_influence",
    "self_calibration": "a decoder writes answers to a text and does not continue it",
    "tasks": "lm-eval is asked here through models that continue a text; measure a perplexity, which scores "
    "what the decoder writes for gaps in the text",
    "behaviour": "prompts are continued, and a decoder writes answers to them instead",
    "target": "no serving program is opened here with an encoder and a decoder",
    "quantize": "quantized forms are made for programs that serve models which continue a text",
    "sparse": "packed linears run in models that continue a text",
    "megatron": "Megatron's layouts are written here for decoders alone",
    "float16": "its hidden states pass the largest number of float16; use bfloat16 or float32",
}


def _row(model_type: str, projection: str, *, shared_bias: str | None = None) -> Architecture:
    return Architecture(
        model_type,
        "encoder.block",
        _LINEARS,
        _INNER,
        _OUTER,
        {
            "hidden_size": "d_model",
            "num_hidden_layers": "num_layers",
            "num_attention_heads": "num_heads",
            "intermediate_size": "d_ff",
            "vocab_size": "vocab_size",
        },
        fixed=(
            Fixed(("hidden_size",), "one width serves both stacks, and cuts of it are not proved yet"),
            Fixed(
                ("num_attention_heads",),
                "relative positions have a number for each head, which all blocks of a stack may share",
            ),
        ),
        by_block=(),
        decoder=Decoder(
            "decoder.block",
            "num_decoder_layers",
            "encoder.final_layer_norm",
            encoder_only=(_MLPS[0],),
            decoder_only=(_CROSS, _MLPS[1]),
            gate=("feed_forward_proj", projection),
            with_gate=(".wi_0", ".wi_1"),
            without_gate=(".wi",),
            shared_bias=shared_bias,
        ),
        lacks=_LACKS,
    )


ENCODER_DECODERS = (
    _row("t5", "relu", shared_bias=_SELF),
    _row("mt5", "gated-gelu", shared_bias=_SELF),
    _row("umt5", "gated-gelu"),
)
