"""The models that a GGUF file can describe so that llama.cpp computes what transformers does."""

import json
from collections.abc import Iterable, Mapping

from pydantic import JsonValue

from pipeline.errors import InvalidSpec
from pipeline.spec.targets import GgufType
from pipeline.structure.sizes import Sizes

# llama.cpp's architecture for a model type. Mistral's graph is Llama's.
ARCHITECTURES = {"llama": "llama", "mistral": "llama", "qwen2": "qwen2", "qwen3": "qwen3"}
# Architectures whose rotary embedding turns neighbouring rows, where transformers turns rows of two halves.
INTERLEAVED = frozenset({"llama"})
ROPE_TYPES = ("default", "linear", "llama3")
QUANTIZED: tuple[GgufType, ...] = ("Q8_0", "Q4_0")
QUANTIZED_TOGETHER = 32  # weights of a row that share a scale in these types

_WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
# The regular expressions that tokenizer.json splits texts with → llama.cpp's name of the same splitting.
_SPLITS = {_WORDS + r"\p{N}{1,3}" + _REST: "llama-bpe", _WORDS + r"\p{N}" + _REST: "qwen2"}


def check_gguf(model_type: str, config: Mapping[str, JsonValue], *, field: str) -> None:
    """Raises InvalidSpec for a model whose GGUF file would compute something else. `config`: its
    config.json."""
    if model_type not in ARCHITECTURES:
        raise InvalidSpec(
            f"llama.cpp: {model_type} cannot be written as GGUF here; types that can: "
            f"{', '.join(ARCHITECTURES)}. Leave this field out, or use onnxruntime, openvino or vllm",
            field,
        )
    window, positions = config.get("sliding_window"), config.get("max_position_embeddings")
    slides = isinstance(window, int) and not (isinstance(positions, int) and window >= positions)
    if slides and config.get("use_sliding_window", True):
        raise InvalidSpec(
            f"llama.cpp: the graph for {model_type} attends to every position, and config.json has "
            f"sliding_window={window}; leave this field out, or lower max_position_embeddings to it",
            field,
        )
    if config.get("hidden_act", "silu") != "silu":
        raise InvalidSpec(
            f"llama.cpp: the graph for {model_type} has the activation silu, and config.json has "
            f"hidden_act={config['hidden_act']!r}; leave this field out",
            field,
        )
    if (kind := rope_type(config)) not in ROPE_TYPES:
        raise InvalidSpec(
            f"llama.cpp: rotary scaling of type {kind!r} (config.json) cannot be written as GGUF here; types "
            f"that can: {', '.join(ROPE_TYPES)}. Leave this field out",
            field,
        )


def check_gguf_types(types: Iterable[GgufType], sizes: Sizes, *, field: str) -> None:
    """Raises InvalidSpec for a quantized type that a model of these sizes cannot have."""
    quantized = [one for one in types if one in QUANTIZED]
    rows = {
        "hidden_size": sizes.hidden_size,
        "intermediate_size": sizes.intermediate_size or 0,
        "num_attention_heads * head_dim": sizes.num_attention_heads * sizes.head_dim,
    }
    odd = [f"{name}={size}" for name, size in rows.items() if size % QUANTIZED_TOGETHER]
    if quantized and odd:
        raise InvalidSpec(
            f"llama.cpp: {', '.join(quantized)} have a scale for every {QUANTIZED_TOGETHER} weights of a "
            f"row, which do not divide {', '.join(odd)} of this model; use F32 or BF16",
            field,
        )


def rope_type(config: Mapping[str, JsonValue]) -> str:
    """How config.json scales rotary frequencies, under the name of transformers."""
    given = config.get("rope_parameters") or config.get("rope_scaling") or {}
    return str(
        (given.get("rope_type") or given.get("type") or "default") if isinstance(given, Mapping) else given
    )


def check_gguf_tokenizer(files: Mapping[str, bytes], *, field: str) -> None:
    """Raises InvalidSpec for a tokenizer that llama.cpp does not have. `files`: the files that describe the
    checkpoint, by name."""
    if "tokenizer.model" in files:
        return
    if "tokenizer.json" not in files:
        raise InvalidSpec(
            "llama.cpp: a GGUF file has its tokenizer inside, which is read from tokenizer.json or "
            "tokenizer.model, and the checkpoint has neither; add one, or leave this field out",
            field,
        )
    splitting_of(json.loads(files["tokenizer.json"]), field=field)


def splitting_of(tokenizer: Mapping[str, JsonValue], *, field: str | None = None) -> str:
    """llama.cpp's name for the way in which a byte-level BPE splits texts before it merges. `tokenizer`:
    content of tokenizer.json. Raises InvalidSpec for any other tokenizer."""
    model = tokenizer.get("model")
    if not isinstance(model, Mapping) or model.get("type") != "BPE" or model.get("byte_fallback"):
        raise InvalidSpec(
            "llama.cpp: tokenizer.json is no byte-level BPE, and there is no tokenizer.model; leave this "
            "field out",
            field,
        )
    name = _splitting(tokenizer.get("pre_tokenizer"))
    normalizer = tokenizer.get("normalizer")
    normal = normalizer.get("type") if isinstance(normalizer, Mapping) else None
    if name is None or normal not in (None, "NFC"):
        raise InvalidSpec(
            f"llama.cpp: the tokenizer splits or normalises texts in a way that is not known to be one of "
            f"llama.cpp's (pre_tokenizer {json.dumps(tokenizer.get('pre_tokenizer'))[:300]}, normalizer "
            f"{normal}); known ones: gpt-2, smollm, {', '.join(_SPLITS.values())}. Leave this field out",
            field,
        )
    return name


def _splitting(pre: JsonValue) -> str | None:
    steps = pre.get("pretokenizers") if isinstance(pre, Mapping) and pre.get("type") == "Sequence" else [pre]
    if not isinstance(steps, list) or not all(isinstance(step, Mapping) for step in steps):
        return None
    kinds = [(step.get("type"), step) for step in steps if isinstance(step, Mapping)]
    match kinds:
        case [("ByteLevel", last)] if last.get("use_regex", True) and not last.get("add_prefix_space"):
            return "gpt-2"
        case [("Digits", digits), ("ByteLevel", last)] if (
            digits.get("individual_digits")
            and last.get("use_regex", True)
            and not last.get("add_prefix_space")
        ):
            return "smollm"
        case [("Split", split), ("ByteLevel", last)] if (
            not last.get("use_regex", True)
            and not last.get("add_prefix_space")
            and split.get("behavior") == "Isolated"
            and not split.get("invert")
        ):
            pattern = split.get("pattern")
            regex = pattern.get("Regex") if isinstance(pattern, Mapping) else None
            return _SPLITS.get(regex) if isinstance(regex, str) else None
    return None
