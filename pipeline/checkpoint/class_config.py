"""transformers' class of a config.json: how the model that is built reads it."""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, cast

from pydantic import JsonValue

from pipeline.checkpoint.config_json import loadable
from pipeline.checkpoint.layout import CONFIG_JSON
from pipeline.errors import UnsupportedCheckpoint

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

FLOATS = {"Infinity": math.inf, "-Infinity": -math.inf, "NaN": math.nan}


def class_config(config: Mapping[str, JsonValue]) -> "PreTrainedConfig":
    """Returns the class's view of a config.json, with its names, defaults and derived fields. Raises
    UnsupportedCheckpoint, which says what the class refuses."""
    from transformers import AutoConfig

    known, _ = loadable(CONFIG_JSON, config)
    arguments = {name: _with_floats(value) for name, value in known.items()}
    try:
        return cast("PreTrainedConfig", AutoConfig.for_model(**arguments))
    except Exception as error:  # the class's checks raise errors of several libraries
        raise UnsupportedCheckpoint(
            f"transformers' class for {config.get('model_type')} refuses config.json: {reason(error)}",
            "spec.model.source",
        ) from error


def reason(error: Exception) -> str:
    """Returns the sentence of an error that its library lays out over several lines."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__


def _with_floats(value: JsonValue) -> object:
    """Returns the value with Python's floats in place of {"__float__": "Infinity"}."""
    if isinstance(value, dict):
        word = value.get("__float__") if len(value) == 1 else None
        if isinstance(word, str) and word in FLOATS:
            return FLOATS[word]
        return {name: _with_floats(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_with_floats(inner) for inner in value]
    return value
