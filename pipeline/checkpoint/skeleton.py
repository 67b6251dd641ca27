"""Builds a checkpoint's model with transformers, without weights, and finds where each of its parameters
lies.

transformers' models and accelerate take seconds to import, so only the functions that build import them.
"""

import threading
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import torch
from pydantic import JsonValue

from pipeline.architecture.row import Architecture
from pipeline.architecture.rows import row_for
from pipeline.architecture.wrappers import WRAPPERS
from pipeline.checkpoint.class_config import class_config, reason
from pipeline.checkpoint.experts import stored_names, stored_shape
from pipeline.checkpoint.language_model import language_names
from pipeline.checkpoint.reader import CheckpointReader
from pipeline.checkpoint.slices import sliced_name
from pipeline.errors import UnsupportedCheckpoint

if TYPE_CHECKING:
    from transformers import (
        AutoModelForCausalLM,
        AutoModelForMultimodalLM,
        AutoModelForSeq2SeqLM,
        PreTrainedConfig,
        PreTrainedModel,
    )

_BUILDING = threading.Lock()  # building without weights changes torch for all threads while it runs


def import_library() -> None:
    """Imports what a model is built with, which takes seconds and 150 MB. It is called before time or memory
    of a model is measured, and where a process would wait for it later."""
    from transformers import PreTrainedModel  # noqa: F401


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


def kept_in_float32(model: "PreTrainedModel", dtype: torch.dtype) -> frozenset[str]:
    """Returns the parts of names whose tensors compute in float32 where the model computes in `dtype`, by
    what transformers' class says (routers' corrections, for example)."""
    kept = set(model._keep_in_fp32_modules_strict or ()) if dtype.itemsize < torch.float32.itemsize else set()
    if dtype == torch.float16:
        kept |= set(model._keep_in_fp32_modules or ())
    return frozenset(kept)


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


def auto_class(
    config: "PreTrainedConfig",
) -> "type[AutoModelForCausalLM] | type[AutoModelForMultimodalLM] | type[AutoModelForSeq2SeqLM]":
    """Returns the family of classes that makes the model of a config: multimodal, with an encoder, or
    causal."""
    from transformers import AutoModelForCausalLM, AutoModelForMultimodalLM, AutoModelForSeq2SeqLM

    if config.model_type in WRAPPERS:
        return AutoModelForMultimodalLM
    return AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM


def shapes_only(config: "PreTrainedConfig") -> "PreTrainedModel":
    """Returns the model that transformers builds from a config, with neither weights nor buffers: whatever
    sizes the config has, no memory is allocated."""
    with torch.device("meta"):
        model = auto_class(config).from_config(config, dtype=torch.float32)
    model.tie_weights()
    return cast("PreTrainedModel", model)


def _without_weights(config: "PreTrainedConfig", dtype: torch.dtype) -> "PreTrainedModel":
    from accelerate import init_empty_weights

    with _BUILDING:  # meanwhile, every parameter that any thread registers becomes an empty one
        with init_empty_weights(include_buffers=False):
            model = auto_class(config).from_config(config, dtype=dtype)
        model.tie_weights()  # building without weights has separated tied parameters
    return cast("PreTrainedModel", model.eval().requires_grad_(False))


@dataclass(frozen=True)
class Located:
    """Where the tensors of a model lie in a checkpoint.

    `names`: module name → checkpoint name, for every parameter and persistent buffer. Instead of fused
    experts it has the matrices of each expert, by their stored names. `shapes`: of all of them in the model,
    by module name. `missing`: the module names of which the checkpoint has nothing. `same`: checkpoint names
    that are one tensor in the model, for tied tensors that are stored more than once.
    """

    names: Mapping[str, str]
    shapes: Mapping[str, tuple[int, ...]]
    missing: tuple[str, ...]
    same: tuple[tuple[str, ...], ...]

    def as_stored(self, names: Mapping[str, str]) -> "Located":
        """Returns the same by the names that the checkpoint has. `names`: these, by the names that it would
        have without other parts (language_model.py), among which the tensors were found."""
        return Located(
            {module: names[disk] for module, disk in self.names.items()},
            self.shapes,
            self.missing,
            tuple(tuple(names[disk] for disk in one) for one in self.same),
        )


def locate(model: "PreTrainedModel", stored: Collection[str]) -> Located:
    """Finds a model's tensors among stored names. Checkpoints saved from the base model lack its prefix, and
    some types use other names than their modules do. A tied tensor is found under the name of either."""
    prefix = f"{model.base_model_prefix}."
    row = row_for(model.config.model_type)
    identities: dict[str, tuple[int, int]] = {}  # one for each matrix of each expert, the same for tied ones
    shapes: dict[str, tuple[int, ...]] = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        named, shape = _as_stored(row, name, tensor.shape)
        identities |= {one: (id(tensor), number) for number, one in enumerate(named)}
        shapes |= dict.fromkeys(named, shape)
    names: dict[str, str] = {}
    found: dict[tuple[int, int], list[str]] = {}
    for name, identity in identities.items():
        renamed = name.replace(*row.renamed) if row.renamed else name
        sliced = sliced_name(row.experts, name) or name
        spelled = (
            *(name, renamed, name.removeprefix(prefix), renamed.removeprefix(prefix)),
            *(sliced, sliced.removeprefix(prefix)),
        )
        disk = next((one for one in spelled if one in stored), None)
        if disk is not None:
            names[name] = disk
            found.setdefault(identity, []).append(disk)
    missing = []
    for name, identity in identities.items():
        if name not in names:
            if identity in found:
                names[name] = found[identity][0]
            else:
                missing.append(name)
    same = tuple(tuple(one) for one in found.values() if len(one) > 1)
    return Located(names, shapes, tuple(missing), same)


def disk_names(model: "PreTrainedModel", reader: CheckpointReader) -> dict[str, str]:
    """Maps module names to checkpoint names: `names` of Located. Tied tensors share a name, because importing
    drops copies from the index (importing.py). Raises UnsupportedCheckpoint for missing tensors."""
    names = language_names(reader.whole_config, reader.index.tensors)
    located = locate(model, names).as_stored(names)
    if located.missing:
        raise UnsupportedCheckpoint(
            f"the checkpoint lacks {len(located.missing)} tensors of its model, the first: "
            f"{located.missing[0]}; save it again with save_pretrained",
            "spec.model.source",
        )
    return dict(located.names)


def stored_parts(model: "PreTrainedModel", names: Mapping[str, str]) -> dict[str, tuple[str, ...]]:
    """Maps each parameter to the checkpoint names of the tensors that it consists of, one after the other in
    memory. Only fused experts have more than one. `names`: as disk_names gives them."""
    row = row_for(model.config.model_type)
    return {
        name: tuple(names[one] for one in _as_stored(row, name, parameter.shape)[0])
        for name, parameter in model.named_parameters()
    }


def _as_stored(row: Architecture, name: str, shape: torch.Size) -> tuple[list[str], tuple[int, ...]]:
    """Returns the stored names of a parameter, and the shape of each."""
    placed = row.inside(name)
    if row.experts is None or placed is None:
        return [name], tuple(shape)
    prefix, inside = placed
    named = [prefix + one for one in stored_names(row.experts, inside, shape)]
    return named, stored_shape(row.experts, inside, shape)
