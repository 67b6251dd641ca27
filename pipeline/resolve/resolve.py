"""resolve(spec, access) -> Pins: fix what every source holds now, and refuse early what cannot work.

Runs inside the API: it reads configs and file lists, never weights, and loads neither torch nor
transformers.
"""

import contextlib
from collections.abc import Iterator

from pipeline.artifacts.refs import MASKS_PATH
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
from pipeline.request.prune_spec import PruneSpec
from pipeline.resolve.model import description_files, resolve_model
from pipeline.resolve.model_checks import PARQUET, TEACHER, check_against_model, check_teacher, check_text
from pipeline.sources.access import Source, SourceAccess, open_source
from pipeline.sources.pins import ModelFacts, Pin, Pins
from pipeline.spec.stored_masks import StoredMasks
from pipeline.spec.texts import TextSource
from pipeline.spec.training_recipe import Distillation
from pipeline.spec.uri import parse_uri
from pipeline.vocabulary.submission import check_tokens

MODEL_PARAM = "spec.model.source"
INCLUDE_PARAM = "spec.evaluation.tasks.include"


def resolve(spec: PruneSpec, access: SourceAccess) -> Pins:
    """Pin all sources of a spec. Raises InvalidRequest subclasses whose `param` is the field to change."""
    asked = spec.evaluation.tasks
    size = spec.structure.vocabulary if spec.structure is not None else None
    with _refused_as(MODEL_PARAM):
        source = open_source(spec.model.source, access)
        model, facts = resolve_model(source, needs_tokenizer=spec.needs_tokenizer)
        if size is not None and facts.vocabulary is not None:
            check_tokens(size, description_files(source, model), rows=facts.vocabulary)
    calibration = None
    if spec.calibration is not None:
        with _refused_as("spec.calibration.source"):
            length = spec.calibration.sequence_length
            calibration = resolve_text(spec.calibration, access, sequence_length=length)
    perplexity = []
    for i, text in enumerate(spec.evaluation.perplexity):
        with _refused_as(f"spec.evaluation.perplexity.{i}.source"):
            perplexity.append(resolve_text(text, access, sequence_length=text.sequence_length))
    vocabulary = []
    for field, counted in size.sources if size is not None else ():
        with _refused_as(f"{field}.source"):
            vocabulary.append(resolve_text(counted, access))
    recovery, teacher, teacher_facts = _resolve_recovery(spec, access)
    mask_text, prior = _resolve_learning(spec, access)
    tasks = None
    if asked is not None and asked.include is not None:
        with _refused_as(INCLUDE_PARAM):
            tasks = resolve_include(open_source(asked.include, access))
    pins = Pins(
        model=model,
        facts=facts,
        calibration=calibration,
        perplexity=tuple(perplexity),
        tasks=tasks,
        vocabulary=tuple(vocabulary),
        recovery=recovery,
        mask_text=mask_text,
        prior=prior,
        compared=_resolve_compared(spec, access),
        teacher=teacher,
        teacher_facts=teacher_facts,
    )
    check_against_model(spec, facts)
    check_teacher(spec, pins)
    return pins


def _resolve_recovery(
    spec: PruneSpec, access: SourceAccess
) -> tuple[Pin | None, Pin | None, ModelFacts | None]:
    """The text that is trained on, and the teacher if it is another model."""
    recovery = spec.recovery
    if recovery is None:
        return None, None, None
    with _refused_as("spec.recovery.text.source"):
        text = resolve_text(recovery.text, access)
        check_text(recovery, text.size, "spec.recovery")
    if not isinstance(recovery.objective, Distillation) or recovery.objective.teacher is None:
        return text, None, None
    with _refused_as(TEACHER):
        source = open_source(recovery.objective.teacher.source, access)
        return text, *resolve_model(source, needs_tokenizer=False)


def _resolve_learning(spec: PruneSpec, access: SourceAccess) -> tuple[Pin | None, Pin | None]:
    """The text that masks are learned on, and the stored masks that they begin with."""
    method = spec.learned_method
    if method is None:
        return None, None
    field = "spec.prune.method.training"
    with _refused_as(f"{field}.text.source"):
        text = resolve_text(method.training.text, access)
        check_text(method.training, text.size, field)
    if not isinstance(method.prior, StoredMasks):
        return text, None
    with _refused_as("spec.prune.method.prior.source"):
        return text, resolve_masks(open_source(method.prior.source, access))


def _resolve_compared(spec: PruneSpec, access: SourceAccess) -> tuple[Pin, ...]:
    found = []
    for i, masks in enumerate(spec.prune.compare_with if spec.prune is not None else ()):
        with _refused_as(f"spec.prune.compare_with.{i}.source"):
            found.append(resolve_masks(open_source(masks.source, access)))
    return tuple(found)


def resolve_masks(source: Source) -> Pin:
    """Pin stored masks, which are one file."""
    pin = source.pin(lambda name: True)
    if len(pin.files) != 1 or not pin.files[0].path.endswith(".safetensors"):
        raise SourceNotFound(f"{source.uri} is no file of masks; name {MASKS_PATH} of a published checkpoint")
    return pin


def resolve_text(text: TextSource, access: SourceAccess, *, sequence_length: int = 0) -> Pin:
    """Pin a text: one file, or a hub dataset as a whole. Refuses one that is shorter than a sequence."""
    source = open_source(text.source, access, repository="dataset")
    pin = source.pin(lambda name: True)
    uri = parse_uri(text.source)
    if uri.scheme == "hub":
        return pin
    name = uri.location.rsplit("/", 1)[-1]
    if [file.path for file in pin.files] != [name]:
        raise SourceNotFound(f"{text.source} is a directory; name one .txt, .jsonl or .parquet file")
    size = pin.files[0].size
    if not name.endswith(PARQUET) and size < sequence_length:  # parquet is compressed
        raise TextTooShort(
            f"{text.source} has {size} bytes, so at most {size} tokens, and sequence_length is "
            f"{sequence_length}; use a longer text or a shorter sequence_length"
        )
    return pin


def resolve_include(source: Source) -> Pin:
    """Pin a directory of task files and their data; anything else in it stays behind. Refuses code."""
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
    """Refusals name the field, and a store that fails while a config is read is a source out of reach."""
    try:
        yield
    except InvalidRequest as error:
        error.param = error.param or param
        raise
    except StorageError as error:
        raise SourceUnreachable(error.message, param) from error
