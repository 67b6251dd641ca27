"""Builds a checkpoint's model with transformers, without weights, and finds where each of its parameters
lies.

transformers' models and accelerate take seconds to import, so only the functions that build import them.
"""

import re
import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING, cast

import torch
from pydantic import JsonValue
from torch import Tensor

from pipeline.architecture.row import Architecture
from pipeline.architecture.rows import row_for
from pipeline.checkpoint.class_config import class_config, reason
from pipeline.checkpoint.experts import stored_names
from pipeline.checkpoint.reader import CheckpointReader
from pipeline.errors import UnsupportedCheckpoint

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

_BUILDING = threading.Lock()  # building without weights changes torch for all threads while it runs


def skeleton(
    reader: CheckpointReader, dtype: torch.dtype, *, changes: Mapping[str, object] | None = None
) -> "PreTrainedModel":
    """Returns the checkpoint's model without weights; its buffers are real. `changes`: other values for
    fields that its config has."""
    config = class_config(reader.config)
    for field, value in (changes or {}).items():
        if hasattr(config, field):
            setattr(config, field, value)
    return _without_weights(config, dtype)


def parameter_count(config: Mapping[str, JsonValue]) -> int:
    """Counts the weights of the model that transformers builds from a config.json, tied ones once. No memory
    is allocated for them."""
    return int(empty_model(config).num_parameters())


def empty_model(config: Mapping[str, JsonValue]) -> "PreTrainedModel":
    """Returns the model that transformers builds from a config.json, without weights. Its buffers are real.
    Raises UnsupportedCheckpoint when there is no such model."""
    read = class_config(config)
    try:
        return _without_weights(read, torch.float32)
    except Exception as error:  # whatever the modules raise for sizes that do not fit each other
        raise UnsupportedCheckpoint(
            f"transformers makes no {read.model_type} of config.json: {reason(error)}", "spec.model.source"
        ) from error


def _without_weights(config: "PreTrainedConfig", dtype: torch.dtype) -> "PreTrainedModel":
    from accelerate import init_empty_weights
    from transformers import AutoModelForCausalLM

    with _BUILDING:  # meanwhile, every parameter that any thread registers becomes an empty one
        with init_empty_weights(include_buffers=False):
            model = AutoModelForCausalLM.from_config(config, dtype=dtype)
        model.tie_weights()  # building without weights has separated tied parameters
    return cast("PreTrainedModel", model.eval().requires_grad_(False))


def disk_names(model: "PreTrainedModel", reader: CheckpointReader) -> dict[str, str]:
    """Maps module names to checkpoint names, for every parameter and persistent buffer; tied ones share a
    name. Instead of fused experts it has the matrices of each expert, by their stored names.

    Checkpoints saved from the base model lack its prefix, and some types use other names than their modules
    do; buffers that older versions stored are ignored.
    """
    prefix = f"{model.base_model_prefix}."
    row = row_for(model.config.model_type)
    stored = set(reader.index.tensors)
    identities = {  # one for each matrix of each expert, the same for tied tensors
        one: (id(tensor), number)
        for name, tensor in model.state_dict(keep_vars=True).items()
        for number, one in enumerate(_stored_names(row, name, tensor))
    }
    names: dict[str, str] = {}
    by_identity: dict[tuple[int, int], str] = {}
    for name, identity in identities.items():
        renamed = name.replace(*row.renamed) if row.renamed else name
        spelled = (name, renamed, name.removeprefix(prefix), renamed.removeprefix(prefix))
        disk = next((one for one in spelled if one in stored), None)
        if disk is not None:
            names[name] = by_identity[identity] = disk
    missing = []
    for name, identity in identities.items():
        if name not in names:
            if identity in by_identity:
                names[name] = by_identity[identity]
            else:
                missing.append(name)
    if missing:
        raise UnsupportedCheckpoint(
            f"the checkpoint lacks {len(missing)} tensors of its model, the first: {missing[0]}; "
            "save it again with save_pretrained",
            "spec.model.source",
        )
    return names


def _stored_names(row: Architecture, name: str, tensor: Tensor) -> list[str]:
    block = re.match(rf"{re.escape(row.blocks)}\.\d+\.", name)
    if row.experts is None or block is None:
        return [name]
    return [block[0] + one for one in stored_names(row.experts, name[block.end() :], tensor.shape)]
