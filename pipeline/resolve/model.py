"""Pinning of checkpoints: their files and facts, or an error that says what is missing."""

import json
import math
from dataclasses import dataclass

from pydantic import JsonValue

from pipeline.architecture.rows import row_for
from pipeline.checkpoint.layout import (
    CONFIG_JSON,
    PICKLE_ENDINGS,
    TOKENIZER_CONFIG_JSON,
    WEIGHTS,
    WEIGHTS_INDEX_JSON,
    has_tokenizer,
    is_description,
)
from pipeline.errors import IncompleteCheckpoint, UnsupportedCheckpoint
from pipeline.sources.access import Source
from pipeline.sources.pins import ModelFacts, Pin, PinnedFile

DESCRIPTION_BYTES = 64 * 1024 * 1024  # limit for a file that is read here; a huge model's index has 30 MB
WEIGHT_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
TO_SAFETENSORS = (
    'convert it, for example with: python -c "from transformers import AutoModelForCausalLM as M; '
    "M.from_pretrained('DIR', dtype='auto').save_pretrained('NEW')\" and copy the tokenizer files beside it "
    "(on the hub, https://huggingface.co/spaces/safetensors/convert does the same)"
)


def model_pin(source: Source) -> Pin:
    """Pin a checkpoint that needs no tokenizer. Raises as `resolve_model` does."""
    return resolve_model(source, needs_tokenizer=False)[0]


def resolve_model(source: Source, *, needs_tokenizer: bool) -> tuple[Pin, ModelFacts]:
    """Pin a checkpoint's files. Refuses all but complete, plain safetensors checkpoints of known types."""
    names = source.names()
    _check_format(names, where=source.uri)
    described = source.pin(is_description)
    checkpoint = _Description(source, {file.path: file for file in described.files})
    facts, weight_bytes = _facts(checkpoint)
    weights = _weight_files(checkpoint, names)
    if needs_tokenizer and not has_tokenizer(names):
        raise IncompleteCheckpoint(
            f"{source.uri} has no tokenizer, which calibration and evaluation need; "
            f"expected tokenizer.json, tokenizer.model, or vocab.json with merges.txt among its files"
        )
    kept = [file for file in described.files if file.path != WEIGHTS_INDEX_JSON or WEIGHTS not in weights]
    pinned = source.pin(weights.__contains__)
    files = tuple(sorted((*kept, *pinned.files), key=lambda file: file.path))
    facts = facts.model_copy(update={"parameters": pinned.size // weight_bytes})
    return Pin(source=pinned.source, files=files), facts


def description_files(source: Source, pin: Pin) -> dict[str, bytes]:
    """The contents of the files that describe a checkpoint, by name, without any weights."""
    return {
        file.path: b"".join(source.read(file))
        for file in pin.files
        if is_description(file.path) and file.size <= DESCRIPTION_BYTES
    }


@dataclass(frozen=True)
class _Description:
    """The files that describe a checkpoint."""

    source: Source
    files: dict[str, PinnedFile]

    @property
    def uri(self) -> str:
        """The URI of the checkpoint."""
        return self.source.uri

    def json(self, name: str) -> dict[str, JsonValue]:
        """The content of one file, which must be a JSON object."""
        file = self.files[name]
        if file.size > DESCRIPTION_BYTES:
            raise UnsupportedCheckpoint(
                f"{name} of {self.uri} has {file.size} bytes; at most {DESCRIPTION_BYTES} are read"
            )
        try:
            value = json.loads(
                b"".join(self.source.read(file)),
                parse_constant=lambda word: {"__float__": word},  # as transformers itself writes Infinity
                parse_float=_finite,
            )
        except (ValueError, RecursionError) as error:
            raise IncompleteCheckpoint(f"{name} of {self.uri} is not JSON: {error}") from error
        if not isinstance(value, dict):
            raise UnsupportedCheckpoint(
                f"{name} of {self.uri} must be a JSON object, got {type(value).__name__}"
            )
        return value


def _finite(number: str) -> float:
    value = float(number)
    if math.isinf(value):
        raise ValueError(f"{number} is larger than any float")
    return value


def _check_format(names: tuple[str, ...], *, where: str) -> None:
    """Refuse, by file names alone, a directory without safetensors weights or without a config."""
    if not any(name.endswith(".safetensors") for name in names):
        if any(name.endswith(".gguf") for name in names):
            raise UnsupportedCheckpoint(
                f"{where} holds GGUF weights; turn one into a Hugging Face checkpoint first: "
                f"secateur import-gguf FILE.gguf DIRECTORY"
            )
        pickles = [name for name in names if name.endswith(PICKLE_ENDINGS)]
        if pickles:
            raise UnsupportedCheckpoint(
                f"{where} has only pickle weights ({', '.join(pickles[:3])}), which can run code when "
                f"they are read; {TO_SAFETENSORS}"
            )
        raise IncompleteCheckpoint(
            f"{where} has no *.safetensors weights; a Hugging Face checkpoint directory has {CONFIG_JSON} "
            f"and {WEIGHTS} or shards with {WEIGHTS_INDEX_JSON}. Found: {', '.join(names[:10]) or 'nothing'}"
        )
    if CONFIG_JSON not in names:
        raise IncompleteCheckpoint(
            f"{where} has no {CONFIG_JSON}; copy the one that belongs to its weights there"
        )


def _facts(checkpoint: _Description) -> tuple[ModelFacts, int]:
    """The facts without the number of weights, and the bytes of one weight. A config without a dtype comes
    from a time when float32 was usual."""
    config = checkpoint.json(CONFIG_JSON)
    described = [(CONFIG_JSON, config)]
    if TOKENIZER_CONFIG_JSON in checkpoint.files:
        described.append((TOKENIZER_CONFIG_JSON, checkpoint.json(TOKENIZER_CONFIG_JSON)))
    for name, content in described:
        if content.get("auto_map"):
            raise UnsupportedCheckpoint(
                f"{name} of {checkpoint.uri} asks for the repository's own Python code (auto_map), and no "
                f"foreign code is run here; save the model with a class of "
                f"transformers, which leaves auto_map out"
            )
    quantization = config.get("quantization_config")
    if quantization:
        method = quantization.get("quant_method") if isinstance(quantization, dict) else quantization
        raise UnsupportedCheckpoint(
            f"{checkpoint.uri} is quantized ({method}); prune the original weights and quantize the result"
        )
    model_type = config.get("model_type")
    if not isinstance(model_type, str):
        raise UnsupportedCheckpoint(f"{CONFIG_JSON} of {checkpoint.uri} has no model_type")
    row = row_for(model_type)
    blocks = _number(config, row.sizes["num_hidden_layers"], where=checkpoint.uri)
    if blocks is None:
        raise UnsupportedCheckpoint(
            f"{CONFIG_JSON} of {checkpoint.uri} has no {row.sizes['num_hidden_layers']}"
        )
    facts = ModelFacts(
        model_type=model_type,
        blocks=blocks,
        max_positions=_number(config, row.positions_key, where=checkpoint.uri),
        hidden_size=_number(config, row.sizes["hidden_size"], where=checkpoint.uri),
        vocabulary=_number(config, "vocab_size", where=checkpoint.uri),
        config=config,
    )
    return facts, WEIGHT_BYTES.get(str(config.get("dtype") or config.get("torch_dtype")), 4)


def _number(config: dict[str, JsonValue], key: str, *, where: str) -> int | None:
    value = config.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise UnsupportedCheckpoint(
            f"{key} in {CONFIG_JSON} of {where} must be a positive number, got {value!r}"
        )
    return value


def _weight_files(checkpoint: _Description, names: tuple[str, ...]) -> frozenset[str]:
    """The files that transformers would load; others (adapters, consolidated copies) stay behind."""
    if WEIGHTS in names:
        return frozenset([WEIGHTS])
    if WEIGHTS_INDEX_JSON not in checkpoint.files:
        found = ", ".join(name for name in names if name.endswith(".safetensors"))
        raise IncompleteCheckpoint(
            f"{checkpoint.uri} has neither {WEIGHTS} nor {WEIGHTS_INDEX_JSON}, so its shards cannot be told "
            f"apart from other files; found {found}"
        )
    weight_map = checkpoint.json(WEIGHTS_INDEX_JSON).get("weight_map")
    named = list(weight_map.values()) if isinstance(weight_map, dict) else []
    shards = {shard for shard in named if isinstance(shard, str)}
    if not shards or not all(isinstance(shard, str) for shard in named):
        raise UnsupportedCheckpoint(
            f"{WEIGHTS_INDEX_JSON} of {checkpoint.uri} has no weight_map to file names"
        )
    missing = sorted(shards.difference(names))
    if missing:
        raise IncompleteCheckpoint(
            f"{checkpoint.uri} lacks {len(missing)} of the {len(shards)} shards that {WEIGHTS_INDEX_JSON} "
            f"names: {', '.join(missing[:5])}"
        )
    return frozenset(shards)
