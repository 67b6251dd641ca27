"""Reads config.json as transformers does, without transformers: the one place that knows its spellings."""

import json
import math
import re
from collections.abc import Mapping

from pydantic import JsonValue

from pipeline.architecture.rows import ROWS
from pipeline.architecture.wrappers import WRAPPERS
from pipeline.checkpoint.layout import CONFIG_JSON, GENERATION_CONFIG_JSON, TOKENIZER_CONFIG_JSON
from pipeline.checkpoint.quantized import FIELD, note_on, read_as
from pipeline.errors import IncompleteCheckpoint

DTYPE_BYTES = {
    "float64": 8,
    "double": 8,
    "float32": 4,
    "float": 4,
    "bfloat16": 2,
    "float16": 2,
    "half": 2,
}
DTYPE_FIELDS = ("dtype", "torch_dtype")  # the first that a file states counts
TIED = "tie_word_embeddings"
CONFIGS = (CONFIG_JSON, GENERATION_CONFIG_JSON, TOKENIZER_CONFIG_JSON)
READ_DTYPE = {"dtype": "bfloat16"}  # of weights that are read dequantized
NO_DTYPE = "float32"  # a config without a dtype comes from a time when float32 was usual


def parse_config(data: bytes | str) -> JsonValue:
    """Returns the content of config.json. Infinity and NaN, which are Python's words and not JSON's, become
    objects such as {"__float__": "Infinity"}, which is how transformers itself writes them. Raises ValueError
    for what is no JSON."""
    parsed: JsonValue = json.loads(data, parse_constant=lambda word: {"__float__": word}, parse_float=_finite)
    return parsed


def dtype_of(config: Mapping[str, JsonValue]) -> str:
    """Returns the type of weights that config.json states, as torch calls it; float32 if it states none that
    torch has."""
    stated = next((config[field] for field in DTYPE_FIELDS if config.get(field) is not None), None)
    return _torch_name(stated) or NO_DTYPE


def loadable(name: str, content: Mapping[str, JsonValue]) -> tuple[dict[str, JsonValue], tuple[str, ...]]:
    """Returns a config (`name`: config.json or another of its kind) without the settings with which
    transformers does not load it, and a sentence about each of them.

    These are the repository's own Python code (`auto_map`), which no model type with a row needs, names that
    torch does not know for types of weights, such as torch.bfloat16 or auto, and a quantized format from
    which weights are read dequantized.
    """
    made, notes = dict(content), []
    row = ROWS.get(str(content.get("model_type"))) if name == CONFIG_JSON else None
    kind = None if row is None else read_as(row, content)
    if kind is not None:
        del made[FIELD]
        made = {**{field: value for field, value in made.items() if field not in DTYPE_FIELDS}, **READ_DTYPE}
        notes.append(note_on(kind))
    if made.pop("auto_map", None):
        notes.append(
            f"{name} asks for the repository's own Python code (auto_map), which transformers does not need "
            f"for this model type: it is not run, and auto_map is left out of the result"
        )
    for field in DTYPE_FIELDS if name == CONFIG_JSON else ():
        stated = made.get(field)
        known = _torch_name(stated)
        if stated is None or known == stated:
            continue
        del made[field]
        if known is None:
            notes.append(f"{name} has {field}={stated!r}, which is no type of torch: it is left out")
        else:
            made[field] = known
    return made, tuple(notes)


def loadable_bytes(name: str, data: bytes) -> bytes:
    """Returns the content of a checkpoint's file, changed only if it is a config that transformers would not
    load, such as one in UTF-16 or behind a byte order mark. A model type without a row keeps its settings: it
    is refused elsewhere. Raises IncompleteCheckpoint for a config that is no JSON."""
    if name not in CONFIGS:
        return data
    try:
        content = parse_config(data)
    except (ValueError, RecursionError) as error:
        raise IncompleteCheckpoint(f"{name} is not JSON: {error}", "spec.model.source") from error
    if not isinstance(content, dict):
        return data
    if name == CONFIG_JSON and content.get("model_type") not in {*ROWS, *WRAPPERS}:
        return data
    made, _ = loadable(name, content)
    return data if made == content and json.detect_encoding(data) == "utf-8" else written(made)


def written(config: Mapping[str, JsonValue]) -> bytes:
    """Returns the bytes of a config.json."""
    return (json.dumps(config, indent=2, sort_keys=True, allow_nan=False) + "\n").encode()


def _finite(number: str) -> float:
    value = float(number)
    if math.isinf(value):
        raise ValueError(f"{number} is larger than any float")
    return value


def _torch_name(stated: JsonValue) -> str | None:
    """Returns torch's own name of a type that a file states."""
    name = re.sub(r"^torch\.", "", stated) if isinstance(stated, str) else None
    return name if name in DTYPE_BYTES else None
