"""Multimodal model types: the language model inside of each, one row of data per type.

Such a checkpoint (`...ForConditionalGeneration` in transformers) has a language model of a type with a row of
its own, and further parts: towers for images, video or sound, and a projector between them and the language
model. Only the language model is pruned, cut and trained; the other parts stay as they are, to the bit.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from pydantic import JsonValue

from pipeline.architecture.row import Fixed

# Spellings of the language model's names in checkpoints, and their names in the model alone. transformers 5
# saves some types under the first spelling and some under the second; both are on hubs.
PREFIXES = (
    ("model.language_model.", "model."),
    ("language_model.model.", "model."),
    ("language_model.lm_head.", "lm_head."),
    ("model.text_model.", "model."),
    ("model.layers.", "model.layers."),
    ("model.embed_tokens.", "model.embed_tokens."),
    ("model.norm.", "model.norm."),
    ("lm_head.", "lm_head."),
)

_WIDTH = Fixed(
    ("hidden_size",),
    "what the model makes of images and sound is projected to this width, and those parts are not cut",
)
TOKENS = Fixed(
    ("vocab_size",),
    "the ids of its tokens for images and sound stand in config.json and in the processor's files, which are "
    "not rewritten",
)
_DEEPSTACK = Fixed(
    ("num_hidden_layers",),
    "features of images are added again after its first blocks, which would be other blocks",
)
_HEADS = Fixed(
    ("num_attention_heads", "num_key_value_heads"),
    "its class makes heads hidden_size / num_attention_heads wide, and the hidden size stays",
)
FIXED = (_WIDTH, TOKENS)


@dataclass(frozen=True)
class ReadAs:
    """A type of language model that computes for text what another one does, which has a row and is built
    instead. `defaults`: what the type's class takes for fields that config.json lacks."""

    model_type: str
    defaults: Mapping[str, JsonValue]


@dataclass(frozen=True)
class Wrapper:
    """A multimodal type. `text`: the type of its language model where config.json names none; `module`: its
    place in transformers' model. `tied`: whether embedding and head are one where config.json does not say
    it; `follows`: they are also one if the language model's own part of config.json says so. `flat`:
    config.json may hold the language model's fields beside the wrapper's, without a part of its own.
    `bounds`: its class bounds logits as the language model's own class does (final_logit_softcapping).
    `fixed`: sizes that cannot be cut beside those of FIXED."""

    model_type: str
    text: str
    module: str = "model.language_model"
    tied: bool = False
    follows: bool = False
    flat: bool = False
    bounds: bool = False
    fixed: tuple[Fixed, ...] = field(default=())


WRAPPERS = {
    row.model_type: row
    for row in (
        Wrapper("gemma3", "gemma3_text", tied=True),
        Wrapper("gemma3n", "gemma3n_text", tied=True, bounds=True),
        Wrapper("gemma4", "gemma4_text", tied=True, bounds=True),
        Wrapper("mistral3", "mistral", tied=True),
        Wrapper("llava", "llama", follows=True),
        Wrapper("llava_next", "llama"),
        Wrapper("llava_onevision", "qwen2", follows=True),
        Wrapper("internvl", "qwen2", tied=True),
        Wrapper("idefics3", "llama", "model.text_model"),
        Wrapper("smolvlm", "llama", "model.text_model"),
        Wrapper("lfm2_vl", "lfm2", tied=True),
        Wrapper("llama4", "llama4_text", "language_model.model"),
        Wrapper("qwen2_vl", "qwen2_vl_text", follows=True, flat=True, fixed=(_HEADS,)),
        Wrapper("qwen2_5_vl", "qwen2_5_vl_text", follows=True, flat=True, fixed=(_HEADS,)),
        Wrapper("qwen3_vl", "qwen3_vl_text", fixed=(_DEEPSTACK,)),
        Wrapper("qwen3_5", "qwen3_5_text"),
        Wrapper("qwen3_5_moe", "qwen3_5_moe_text"),
    )
}

# Qwen's rotary embedding in three sections (time, height, width) is the ordinary one where a token has one
# position, as all tokens of a text have.
_QWEN2_VL: Mapping[str, JsonValue] = {
    "vocab_size": 152064,
    "hidden_size": 8192,
    "intermediate_size": 29568,
    "num_hidden_layers": 80,
    "num_attention_heads": 64,
    "num_key_value_heads": 8,
    "max_position_embeddings": 32768,
    "rms_norm_eps": 1e-05,
    "max_window_layers": 80,
    "bos_token_id": 151643,
    "eos_token_id": 151645,
    "rope_theta": 1000000.0,
}
READ_AS: Mapping[str, ReadAs] = {
    "qwen2_vl_text": ReadAs("qwen2", _QWEN2_VL),
    "qwen2_5_vl_text": ReadAs("qwen2", _QWEN2_VL),
    "qwen3_vl_text": ReadAs(
        "qwen3",
        {
            "vocab_size": 151936,
            "hidden_size": 4096,
            "intermediate_size": 22016,
            "num_hidden_layers": 32,
            "num_attention_heads": 32,
            "num_key_value_heads": 32,
            "head_dim": 128,
            "max_position_embeddings": 128000,
            "rope_theta": 500000.0,
        },
    ),
}


def language_name(stored: str) -> str | None:
    """Returns the name in the language model alone of a tensor that a multimodal checkpoint stores; None for
    tensors of its other parts."""
    return next(
        (f"{alone}{stored.removeprefix(inside)}" for inside, alone in PREFIXES if stored.startswith(inside)),
        None,
    )


def spellings(name: str) -> Iterator[str]:
    """Yields the names under which multimodal checkpoints may store a tensor of the language model, its own
    name first; `name` may be the beginning of one."""
    yield name
    for inside, alone in PREFIXES:
        if inside != alone and name.startswith(alone):
            yield f"{inside}{name.removeprefix(alone)}"
