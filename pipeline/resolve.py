"""resolve(spec, access) -> Pins: fix what every source holds now, and refuse early what cannot work.

Runs inside the API: it reads configs and file lists, never weights, and loads neither torch nor
transformers.
"""

import contextlib
import json
from collections.abc import Iterator
from dataclasses import dataclass

from pydantic import JsonValue

from pipeline.architecture import row_for
from pipeline.checkpoint.index import WEIGHTS_INDEX_JSON
from pipeline.checkpoint.layout import (
    CONFIG_JSON,
    PICKLE_ENDINGS,
    TOKENIZER_CONFIG_JSON,
    WEIGHTS,
    has_tokenizer,
    is_description,
)
from pipeline.errors import (
    IncompleteCheckpoint,
    InvalidRequest,
    InvalidSpec,
    SourceNotFound,
    SourceUnreachable,
    StorageError,
    TextTooShort,
    UnsupportedCheckpoint,
)
from pipeline.recovery import Distillation
from pipeline.sources.access import Source, SourceAccess, open_source
from pipeline.sources.pins import ModelFacts, Pin, PinnedFile, Pins
from pipeline.sources.uri import parse_uri
from pipeline.spec import PruneSpec, check_against_model
from pipeline.task_files import (
    INCLUDE_ENDINGS,
    MOST_TASK_FILES,
    TASK_ENDINGS,
    TASK_FILE_BYTES,
    read_task_files,
)
from pipeline.texts import TextSource

MODEL_PARAM = "spec.model.source"
INCLUDE_PARAM = "spec.evaluation.tasks.include"
DESCRIPTION_BYTES = 64 * 1024 * 1024  # of one file that is read here; the index of a huge model has 30 MB
TO_SAFETENSORS = (
    'convert it, for example with: python -c "from transformers import AutoModelForCausalLM as M; '
    "M.from_pretrained('DIR', dtype='auto').save_pretrained('NEW')\" and copy the tokenizer files beside it "
    "(on the hub, https://huggingface.co/spaces/safetensors/convert does the same)"
)


def resolve(spec: PruneSpec, access: SourceAccess) -> Pins:
    """Pin all sources of a spec. Raises InvalidRequest subclasses whose `param` is the field to change."""
    asked = spec.evaluation.tasks
    with _refused_as(MODEL_PARAM):
        model, facts = resolve_model(
            open_source(spec.model.source, access), needs_tokenizer=spec.needs_tokenizer
        )
    calibration = None
    if spec.calibration is not None:
        with _refused_as("spec.calibration.source"):
            length = spec.calibration.sequence_length
            calibration = resolve_text(spec.calibration, access, sequence_length=length)
    perplexity = []
    for i, text in enumerate(spec.evaluation.perplexity):
        with _refused_as(f"spec.evaluation.perplexity.{i}.source"):
            perplexity.append(resolve_text(text, access, sequence_length=text.sequence_length))
    recovery, teacher = _resolve_recovery(spec, access)
    tasks = None
    if asked is not None and asked.include is not None:
        with _refused_as(INCLUDE_PARAM):
            tasks = resolve_include(open_source(asked.include, access))
    check_against_model(
        spec, model_type=facts.model_type, blocks=facts.blocks, max_positions=facts.max_positions
    )
    return Pins(
        model=model,
        facts=facts,
        calibration=calibration,
        perplexity=tuple(perplexity),
        tasks=tasks,
        recovery=recovery,
        teacher=teacher,
    )


def _resolve_recovery(spec: PruneSpec, access: SourceAccess) -> tuple[Pin | None, Pin | None]:
    """The text that is trained on, and the teacher if it is another model."""
    recovery = spec.recovery
    if recovery is None:
        return None, None
    with _refused_as("spec.recovery.text.source"):
        text = resolve_text(recovery.text, access, sequence_length=recovery.text.sequence_length)
    if not isinstance(recovery.objective, Distillation) or recovery.objective.teacher is None:
        return text, None
    with _refused_as("spec.recovery.objective.teacher.source"):
        teacher, _ = resolve_model(
            open_source(recovery.objective.teacher.source, access), needs_tokenizer=True
        )
    return text, teacher


def model_pin(source: Source) -> Pin:
    """Pin a checkpoint that needs no tokenizer. Raises as `resolve_model` does."""
    return resolve_model(source, needs_tokenizer=False)[0]


def resolve_model(source: Source, *, needs_tokenizer: bool) -> tuple[Pin, ModelFacts]:
    """Pin a checkpoint's files. Refuses what is no complete, plain safetensors checkpoint of a known type."""
    names = source.names()
    _check_format(names, where=source.uri)
    described = source.pin(is_description)
    checkpoint = _Description(source, {file.path: file for file in described.files})
    facts = _facts(checkpoint)
    weights = _weight_files(checkpoint, names)
    if needs_tokenizer and not has_tokenizer(names):
        raise IncompleteCheckpoint(
            f"{source.uri} has no tokenizer, which calibration and evaluation need; "
            f"expected tokenizer.json, tokenizer.model, or vocab.json with merges.txt among its files"
        )
    kept = [file for file in described.files if file.path != WEIGHTS_INDEX_JSON or WEIGHTS not in weights]
    pinned = source.pin(weights.__contains__)
    files = tuple(sorted((*kept, *pinned.files), key=lambda file: file.path))
    return Pin(source=pinned.source, files=files), facts


def resolve_text(text: TextSource, access: SourceAccess, *, sequence_length: int) -> Pin:
    """Pin a text: one file, or a hub dataset as a whole."""
    source = open_source(text.source, access, repository="dataset")
    pin = source.pin(lambda name: True)
    uri = parse_uri(text.source)
    if uri.scheme == "hub":
        return pin
    name = uri.location.rsplit("/", 1)[-1]
    if [file.path for file in pin.files] != [name]:
        raise SourceNotFound(f"{text.source} is a directory; name one .txt, .jsonl or .parquet file")
    size = pin.files[0].size
    if not name.endswith(".parquet") and size < sequence_length:  # parquet is compressed
        raise TextTooShort(
            f"{text.source} has {size} bytes, so at most {size} tokens, and sequence_length is "
            f"{sequence_length}; use a longer text or a shorter sequence_length"
        )
    return pin


def resolve_include(source: Source) -> Pin:
    """Pin a directory of task files and their data; anything else in it stays behind. Refuses code."""
    names = tuple(name for name in source.names() if name.endswith(INCLUDE_ENDINGS))
    files = sum(name.endswith(TASK_ENDINGS) for name in names)
    if files > MOST_TASK_FILES:
        raise InvalidSpec(f"{source.uri} has {files} task files; at most {MOST_TASK_FILES} are taken")
    pin = source.pin(names.__contains__)
    described = [file for file in pin.files if file.path.endswith(TASK_ENDINGS)]
    for file in described:
        if file.size > TASK_FILE_BYTES:
            raise InvalidSpec(
                f"{file.path} of {source.uri} has {file.size} bytes, a task file at most {TASK_FILE_BYTES}"
            )
    try:
        read_task_files({file.path: b"".join(source.read(file)) for file in described}, names)
    except InvalidSpec as error:
        raise InvalidSpec(f"{source.uri}: {error.message}") from error
    return pin


@dataclass(frozen=True)
class _Description:
    """The files of a checkpoint that say what it is."""

    source: Source
    files: dict[str, PinnedFile]

    @property
    def uri(self) -> str:
        """Where they lie."""
        return self.source.uri

    def json(self, name: str) -> dict[str, JsonValue]:
        """One of them, which must hold an object."""
        file = self.files[name]
        if file.size > DESCRIPTION_BYTES:
            raise UnsupportedCheckpoint(
                f"{name} of {self.uri} has {file.size} bytes; at most {DESCRIPTION_BYTES} are read"
            )
        try:
            value = json.loads(b"".join(self.source.read(file)))
        except (ValueError, RecursionError) as error:
            raise IncompleteCheckpoint(f"{name} of {self.uri} is not JSON: {error}") from error
        if not isinstance(value, dict):
            raise UnsupportedCheckpoint(
                f"{name} of {self.uri} must be a JSON object, got {type(value).__name__}"
            )
        return value


def _check_format(names: tuple[str, ...], *, where: str) -> None:
    """Refuse, by file names alone, what has no safetensors weights."""
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


def _facts(checkpoint: _Description) -> ModelFacts:
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
    blocks = _number(config, row.blocks_key, where=checkpoint.uri)
    if blocks is None:
        raise UnsupportedCheckpoint(f"{CONFIG_JSON} of {checkpoint.uri} has no {row.blocks_key}")
    positions = _number(config, row.positions_key, where=checkpoint.uri)
    return ModelFacts(model_type=model_type, blocks=blocks, max_positions=positions)


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


@contextlib.contextmanager
def _refused_as(param: str) -> Iterator[None]:
    """Refusals name the field, and a store that fails while a config is read is a source out of reach."""
    try:
        yield
    except InvalidRequest as error:
        error.param = error.param or param
        raise
    except StorageError as error:
        raise SourceUnreachable(error.message, param) from error
