"""Pinning of checkpoints: their files and facts, or an error that says what is missing."""

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass

from pydantic import JsonValue

from pipeline.architecture.axes import Size
from pipeline.architecture.row import Architecture
from pipeline.architecture.rows import row_for
from pipeline.checkpoint.config_json import DTYPE_BYTES, dtype_of, loadable, parse_config
from pipeline.checkpoint.language_model import language_config, wrapper_of
from pipeline.checkpoint.layout import (
    BESIDE_BYTES,
    CONFIG_JSON,
    SENTENCEPIECE,
    TOKENIZER_CONFIG_JSON,
    WEIGHTS,
    WEIGHTS_INDEX_JSON,
    has_tokenizer,
    is_beside,
    is_description,
)
from pipeline.checkpoint.plain import check_marks
from pipeline.checkpoint.quantized import BITS, read_as
from pipeline.errors import IncompleteCheckpoint, UnsupportedCheckpoint
from pipeline.resolve.kinds import check_kind, check_type
from pipeline.sources.access import Source
from pipeline.sources.pins import ModelFacts, Pin, PinnedFile
from pipeline.storage.base import is_key
from pipeline.structure.sizes import LARGEST, MOST_BLOCKS, SHORT

FACTS: tuple[Size, ...] = ("hidden_size", "vocab_size")
SHOWN = 20  # names of files in one note
CONFIG_BYTES = 1024 * 1024  # it is stored with each job
DESCRIPTION_BYTES = 64 * 1024 * 1024  # limit for a file that is read here; a huge model's index has 30 MB


def model_pin(source: Source) -> Pin:
    """Pin a checkpoint that needs no tokenizer. Raises as `resolve_model` does."""
    return resolve_model(source, needs_tokenizer=False)[0]


def resolve_model(source: Source, *, needs_tokenizer: bool) -> tuple[Pin, ModelFacts]:
    """Pin a checkpoint's files. Refuses all but complete, plain safetensors checkpoints of known types."""
    names = source.names()
    check_kind(source, names)
    described = source.pin(is_description)
    checkpoint = _Description(source, {file.path: file for file in described.files})
    facts, weight_bytes = _facts(checkpoint, names)
    weights = _weight_files(checkpoint, names)
    if needs_tokenizer and not has_tokenizer(names):
        raise IncompleteCheckpoint(
            f"{source.uri} has no tokenizer, which calibration and evaluation need; "
            f"expected tokenizer.json, {' or '.join(SENTENCEPIECE)}, or vocab.json with merges.txt among its "
            f"files"
        )
    kept = [file for file in described.files if _is_kept(file, weights)]
    pinned = source.pin(weights.__contains__)
    files = tuple(sorted((*kept, *pinned.files), key=lambda file: file.path))
    behind = left_behind(names, source.folders(), taken={file.path for file in files})
    facts = facts.model_copy(
        update={"parameters": int(pinned.size // weight_bytes), "notes": (*facts.notes, *behind)}
    )
    return Pin(source=pinned.source, files=files), facts


def description_files(
    source: Source, pin: Pin, *, wanted: Callable[[str], bool] = is_description
) -> dict[str, bytes]:
    """The contents of the files that describe a checkpoint, by name, without any weights. `wanted`: which of
    them are read."""
    return {
        file.path: b"".join(source.read(file))
        for file in pin.files
        if is_description(file.path) and wanted(file.path) and file.size <= DESCRIPTION_BYTES
    }


def left_behind(names: Iterable[str], folders: Iterable[str], *, taken: Collection[str]) -> tuple[str, ...]:
    """Returns a sentence about the files and folders of a source that the result will not have; hidden ones
    are not worth one."""
    inside = {name.partition("/")[0] for name in taken if "/" in name}
    files = [name for name in names if name not in taken]
    all_of_them = [*files, *(f"{name}/" for name in folders if name not in inside)]
    behind = [name for name in all_of_them if not name.startswith(".") and name != WEIGHTS_INDEX_JSON]
    if not behind:
        return ()
    more = f" and {len(behind) - SHOWN} more" if len(behind) > SHOWN else ""
    return (f"stays behind in the source: {', '.join(behind[:SHOWN])}{more}",)


def _is_kept(file: PinnedFile, weights: frozenset[str]) -> bool:
    """Tells whether a file that describes the checkpoint is carried: not the index of other weights, nothing
    beside them that is large or has a name that storage cannot hold."""
    if file.path == WEIGHTS_INDEX_JSON:
        return WEIGHTS not in weights
    return not is_beside(file.path) or (file.size <= BESIDE_BYTES and is_key(file.path))


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
        most = CONFIG_BYTES if name == CONFIG_JSON else DESCRIPTION_BYTES
        if file.size > most:
            raise UnsupportedCheckpoint(
                f"{name} of {self.uri} has {file.size} bytes; at most {most} are read"
            )
        try:
            value = parse_config(b"".join(self.source.read(file)))
        except (ValueError, RecursionError) as error:
            raise IncompleteCheckpoint(f"{name} of {self.uri} is not JSON: {error}") from error
        if not isinstance(value, dict):
            raise UnsupportedCheckpoint(
                f"{name} of {self.uri} must be a JSON object, got {type(value).__name__}"
            )
        return value


def _facts(checkpoint: _Description, names: Collection[str]) -> tuple[ModelFacts, float]:
    """The facts without the number of weights, and the bytes of one weight."""
    stated = checkpoint.json(CONFIG_JSON)
    model_type = check_type(stated, source=checkpoint.source)
    config, notes = loadable(CONFIG_JSON, stated)
    if TOKENIZER_CONFIG_JSON in checkpoint.files:
        notes += loadable(TOKENIZER_CONFIG_JSON, checkpoint.json(TOKENIZER_CONFIG_JSON))[1]
    check_marks(config, names, where=checkpoint.uri)
    wrapper = wrapper_of(config)
    if wrapper is not None:
        notes += (
            f"a multimodal checkpoint ({wrapper.model_type}): its language model, a {model_type}, is worked "
            f"on, and its other parts are carried over unchanged",
        )
    whole, config = config, language_config(config)
    row = row_for(model_type)
    _check_limits(row, config, where=checkpoint.uri)
    sizes = {size: _number(row, config, row.sizes[size], where=checkpoint.uri) for size in FACTS}
    first, *others = (_number(row, config, count, where=checkpoint.uri) for _, count in row.stacks)
    if first is None:
        raise UnsupportedCheckpoint(f"{CONFIG_JSON} of {checkpoint.uri} has no {row.stacks[0][1]}")
    facts = ModelFacts(
        model_type=model_type,
        blocks=first + sum(first if count is None else count for count in others),
        max_positions=_number(row, config, row.positions_key, where=checkpoint.uri),
        hidden_size=sizes["hidden_size"],
        vocabulary=sizes["vocab_size"],
        config=config,
        wrapper=whole if wrapper is not None else None,
        notes=notes,
    )
    kind = read_as(row, stated)
    return facts, DTYPE_BYTES[dtype_of(config)] if kind is None else BITS[kind] / 8


def _check_limits(row: Architecture, config: dict[str, JsonValue], *, where: str) -> None:
    """Refuse sizes that no model has: a plan of so many blocks would fill memory before any is read."""
    for name in (*row.sizes.values(), row.positions_key):
        blocks = name == row.sizes["num_hidden_layers"]
        value, most = row.read(config, name), MOST_BLOCKS if blocks else LARGEST
        if isinstance(value, int) and value > most:
            raise UnsupportedCheckpoint(
                f"{row.stated(config, name)[0]} in {CONFIG_JSON} of {where} may be {most}, "
                f"got {SHORT.repr(value)}"
            )


def _number(row: Architecture, config: dict[str, JsonValue], field: str, *, where: str) -> int | None:
    key, value = row.stated(config, field)[0], row.read(config, field)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise UnsupportedCheckpoint(
            f"{key} in {CONFIG_JSON} of {where} must be a positive number, got {SHORT.repr(value)}"
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
