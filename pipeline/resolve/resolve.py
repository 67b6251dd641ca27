"""resolve(spec, access) -> Pins: pin every source to its present content, and refuse early what cannot work.

It runs inside the API: it reads configs, file lists and the headers of weights, never weights, and loads
neither torch nor transformers. An inspector, which needs both, may be given from outside.
"""

import contextlib
from collections.abc import Callable, Iterator

from pipeline.artifacts.refs import MASKS_PATH
from pipeline.checkpoint.header import read_headers
from pipeline.checkpoint.inspection import Inspection
from pipeline.checkpoint.plain import check_plain
from pipeline.errors import (
    InvalidRequest,
    InvalidSpec,
    SourceNotFound,
    SourceUnreachable,
    StorageError,
    TextTooShort,
)
from pipeline.evaluation.task_files import (
    INCLUDE_ENDINGS,
    MAX_TASK_FILES,
    TASK_ENDINGS,
    TASK_FILE_BYTES,
    read_task_files,
)
from pipeline.request.bos import with_bos
from pipeline.request.prune_spec import PruneSpec
from pipeline.resolve.model import description_files, resolve_model
from pipeline.resolve.model_checks import check_against_model, check_teacher, check_texts
from pipeline.resolve.special_tokens import READ, check_pad_row, check_special_tokens, read_special_tokens
from pipeline.serving.llama_cpp import check_gguf_tokenizer
from pipeline.sources.access import Source, SourceAccess, open_source
from pipeline.sources.pins import MODEL, ModelFacts, Pin, Pins
from pipeline.spec.evaluation import PerplexityText
from pipeline.spec.quantization import Gguf
from pipeline.spec.source_fields import SourceField, source_fields
from pipeline.spec.targets import LlamaCpp, SecateurSparse
from pipeline.spec.texts import FORMATS, Calibration, TextSource
from pipeline.spec.uri import SourceKind, parse_uri
from pipeline.text.unpacking import is_packed
from pipeline.vocabulary.submission import check_tokens

Inspector = Callable[[Inspection], None]


def resolve(spec: PruneSpec, access: SourceAccess, *, inspect: Inspector | None = None) -> Pins:
    """Pin all sources of a spec. Raises InvalidRequest subclasses whose `param` is the field to change.

    `inspect` compares a model with the class that its config makes (pipeline/checkpoint/inspection.py).
    Without it the job's first stage does so.
    """
    sources: dict[str, Pin] = {}
    models: dict[str, ModelFacts] = {}
    for field in source_fields(spec, "spec"):
        with _refused_as(field.path):
            if field.kind is SourceKind.MODEL:
                sources[field.path], models[field.path] = _resolve_checkpoint(field, spec, access, inspect)
            else:
                sources[field.path] = _resolve_other(field, access)
    pins = Pins(sources=sources, models=models)
    filled = with_bos(spec, pins.facts.model_type)
    check_texts(filled, pins, is_packed=lambda field, text: _is_packed(text, pins.of(field), access))
    check_against_model(filled, pins.facts)
    check_teacher(spec, pins)
    return pins


def _resolve_checkpoint(
    field: SourceField, spec: PruneSpec, access: SourceAccess, inspect: Inspector | None
) -> tuple[Pin, ModelFacts]:
    """Pin the model or a teacher. A teacher needs no tokenizer, because it uses the model's tokens."""
    source = open_source(field.uri, access)
    ours = field.path == MODEL
    pin, facts = resolve_model(source, needs_tokenizer=ours and spec.needs_tokenizer)
    check_pad_row(facts)
    if ours and spec.needs_tokenizer:
        tokens = read_special_tokens(description_files(source, pin, wanted=READ.__contains__))
        notes = check_special_tokens(with_bos(spec, facts.model_type), facts, tokens)
        facts = facts.model_copy(update={"notes": (*facts.notes, *notes)})
    parts = {"target": spec.target, "quantize": spec.quantize} if ours else {}
    for part, asked in parts.items():
        for i, one in enumerate(asked):
            if isinstance(one, LlamaCpp | Gguf) or (isinstance(one, SecateurSparse) and one.llama_cpp):
                check_gguf_tokenizer(description_files(source, pin), field=f"spec.{part}.{i}")
    size = spec.structure.vocabulary if ours and spec.structure is not None else None
    if size is not None and facts.vocabulary is not None:
        check_tokens(size, description_files(source, pin), rows=facts.vocabulary)
    tensors = read_headers(pin, source)
    check_plain(facts.whole_config, tensors, where=source.uri)
    if inspect is not None:
        structure = spec.structure if ours else None
        inspect(Inspection(config=facts.whole_config, tensors=tensors, where=source.uri, structure=structure))
    return pin, facts


def _resolve_other(field: SourceField, access: SourceAccess) -> Pin:
    if field.kind is SourceKind.TEXT:
        assert isinstance(field.holder, TextSource), "a text says how it is read"
        return resolve_text(field.holder, access)
    source = open_source(field.uri, access)
    return resolve_masks(source) if field.kind is SourceKind.MASKS else resolve_include(source)


def resolve_masks(source: Source) -> Pin:
    """Pin stored masks, which are one file."""
    pin = source.pin(lambda name: True)
    if len(pin.files) != 1 or not pin.files[0].path.endswith(".safetensors"):
        raise SourceNotFound(f"{source.uri} is no file of masks; name {MASKS_PATH} of a published checkpoint")
    return pin


def resolve_text(text: TextSource, access: SourceAccess) -> Pin:
    """Pin a text: one file, or a hub dataset as a whole. Refuses one that is shorter than a sequence."""
    source = open_source(text.source, access, repository="dataset")
    pin = source.pin(lambda name: True)
    uri = parse_uri(text.source)
    if uri.scheme == "hub":
        return pin
    name = uri.location.rsplit("/", 1)[-1]
    if [file.path for file in pin.files] != [name]:
        raise SourceNotFound(f"{text.source} is a directory; name one {', '.join(FORMATS)} file")
    size = pin.files[0].size
    sequence_length = text.sequence_length if isinstance(text, Calibration | PerplexityText) else 0
    if text.is_plain and size < sequence_length and not _is_packed(text, pin, access):
        raise TextTooShort(
            f"{text.source} has {size} bytes, so at most {size} tokens, and sequence_length is "
            f"{sequence_length}; use a longer text or a shorter sequence_length"
        )
    return pin


def _is_packed(text: TextSource, pin: Pin, access: SourceAccess) -> bool:
    """Tells whether a text is packed, although its name does not say so."""
    return is_packed(open_source(text.source, access, repository="dataset").read(pin.files[0]))


def resolve_include(source: Source) -> Pin:
    """Pin a directory of task files and their data, and ignore its other files. Refuses code."""
    names = tuple(name for name in source.names() if name.endswith(INCLUDE_ENDINGS))
    files = sum(name.endswith(TASK_ENDINGS) for name in names)
    if files > MAX_TASK_FILES:
        raise InvalidSpec(f"{source.uri} has {files} task files; at most {MAX_TASK_FILES} are taken")
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


@contextlib.contextmanager
def _refused_as(param: str) -> Iterator[None]:
    """Add the field to refusals, and turn errors of a store while a config is read into SourceUnreachable.
    Code that reads checkpoints knows the model's field only; here it may be a teacher's."""
    try:
        yield
    except InvalidRequest as error:
        error.param = param if error.param in (None, MODEL) else error.param
        raise
    except StorageError as error:
        raise SourceUnreachable(error.message, param) from error
