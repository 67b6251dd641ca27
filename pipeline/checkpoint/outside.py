"""The comparison of a multimodal checkpoint with the whole model that transformers makes of its config.json.

Names go through transformers' own table of renamings, so that layouts of hubs that it renames while loading
are known here too. Its language model has been compared by itself before (compare.py).
"""

import math
import re
from collections.abc import Collection, Iterator, Mapping
from typing import TYPE_CHECKING

from pydantic import JsonValue

from pipeline.architecture.wrappers import READ_AS
from pipeline.checkpoint.class_config import class_config, reason
from pipeline.checkpoint.config_json import DTYPE_FIELDS, TIED
from pipeline.checkpoint.header import TensorFacts
from pipeline.checkpoint.language_model import ROPE, language_config, wrapper_of
from pipeline.checkpoint.leftovers import harmless
from pipeline.errors import UnsupportedCheckpoint

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel
    from transformers.core_model_loading import WeightConverter

FIELD = "spec.model.source"
NAMED = 3  # tensors that an error names
# Fields of a config that say nothing about what the language model computes, or that are compared elsewhere.
_BESIDE = ("model_type", "architectures", "transformers_version", "_name_or_path", TIED, *DTYPE_FIELDS)
_BOUND = "final_logit_softcapping"
_ON_LOGITS = ("logit_scale", "logits_scaling", _BOUND)


def compare_outside(
    config: Mapping[str, JsonValue],
    tensors: Mapping[str, TensorFacts],
    *,
    inside: Collection[str],
    where: str,
) -> set[str]:
    """Compares all stored tensors with the whole model, and the language model's config with the one that the
    whole model reads. Returns the stored tensors of the other parts that the model does not read and that may
    be ignored.

    `inside`: the stored names of the language model. Raises UnsupportedCheckpoint that names tensors or
    fields.
    """
    model = whole_model(config, where=where)
    _check_config(config, model.config.get_text_config(), where=where)
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    places, unread = _places(model, tensors, shapes)
    _check_language_model(model, {name: places[name] for name in inside if name in places}, where=where)
    outside = unread - set(inside)
    allowed = {*harmless(outside), *_ignored_by(model, outside)}
    reached = {place for found in places.values() for place in found}
    missing = sorted(shapes.keys() - reached - model.all_tied_weights_keys.keys())
    left = sorted(outside - allowed)
    if missing or left:
        what = ", and ".join(
            said
            for said in (
                f"{len(missing)} tensors are missing ({_some(missing)})" if missing else "",
                f"{len(left)} are stored that it has no place for ({_some(left)})" if left else "",
            )
            if said
        )
        raise UnsupportedCheckpoint(
            f"{where} and its config.json are not the same {model.config.model_type}: {what}; use the "
            f"config.json that belongs to the weights, or save the model again with save_pretrained",
            FIELD,
        )
    for name, found in places.items():
        if len(found) == 1 and name not in inside and tensors[name].shape not in (shapes[found[0]], ()):
            _check_shape(name, tensors[name].shape, shapes[found[0]], renamed=found[0], where=where)
    return outside & allowed


def whole_model(config: Mapping[str, JsonValue], *, where: str) -> "PreTrainedModel":
    """Returns the whole model of a multimodal config.json, with neither weights nor buffers. Raises
    UnsupportedCheckpoint where transformers makes none, such as for want of a library."""
    import torch
    from transformers import AutoModelForMultimodalLM

    made = class_config(config)
    try:
        with torch.device("meta"):
            model: PreTrainedModel = AutoModelForMultimodalLM.from_config(made, dtype=torch.float32)
    except Exception as error:  # whatever goes wrong here, the cause is in config.json or a missing library
        raise UnsupportedCheckpoint(
            f"transformers makes no model of the config.json of {where}: {reason(error)}", FIELD
        ) from error
    return model


def _check_config(config: Mapping[str, JsonValue], whole: "PreTrainedConfig", *, where: str) -> None:
    """Compares what the language model's class reads with what it reads inside of the whole model."""
    alone = class_config(language_config(config)).to_dict()
    wrapper = wrapper_of(config)
    assert wrapper is not None, "the whole model is multimodal"
    for name in _ON_LOGITS:
        if alone.get(name) not in (None, 1.0) and not (wrapper.bounds and name == _BOUND):
            raise UnsupportedCheckpoint(
                f"{where}: a {alone['model_type']} changes its logits by {name}={alone[name]!r}, which "
                f"transformers leaves out inside of a {wrapper.model_type}: its figures would be "
                f"others; save the language model alone, and prune that",
                FIELD,
            )
    other = whole.to_dict()
    beside = {*_BESIDE, *(ROPE if whole.model_type in READ_AS else ())}
    differing = [
        name
        for name, value in alone.items()
        if name in other and name not in beside and not name.endswith("_token_id") and other[name] != value
    ]
    if differing:
        name = differing[0]
        raise UnsupportedCheckpoint(
            f"{where}: inside of a {config['model_type']}, transformers reads {name}={other[name]!r} for the "
            f"language model, and alone {alone[name]!r}; state {name} in text_config of config.json",
            FIELD,
        )


def _places(
    model: "PreTrainedModel", tensors: Collection[str], shapes: Mapping[str, tuple[int, ...]]
) -> tuple[dict[str, tuple[str, ...]], set[str]]:
    """Returns the tensors of the model that each stored one becomes (the parts of, if it is divided), and the
    stored ones that become none."""
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import WeightConverter, WeightRenaming, rename_source_key

    table = get_model_conversion_mapping(model)
    renamings = [one for one in table if isinstance(one, WeightRenaming)]
    converters = [one for one in table if isinstance(one, WeightConverter)]
    places: dict[str, tuple[str, ...]] = {}
    unread: set[str] = set()
    for name in tensors:
        renamed, pattern = rename_source_key(name, renamings, converters, model.base_model_prefix, shapes)
        found = [one for one in _divided(renamed, pattern, converters) if one in shapes]
        if found:
            places[name] = tuple(found)
        else:
            unread.add(name)
    return places, unread


def _divided(renamed: str, pattern: str | None, converters: list["WeightConverter"]) -> Iterator[str]:
    """Yields the names of all tensors that a stored one is divided into; `renamed` is that of the first."""
    yield renamed
    for converter in converters:
        if pattern in converter.source_patterns:
            first, *others = converter.target_patterns
            yield from (renamed.replace(first, other) for other in others)


def _check_language_model(
    model: "PreTrainedModel", places: Mapping[str, tuple[str, ...]], *, where: str
) -> None:
    """Checks that what is taken for the language model's tensors is in the whole model's language model."""
    decoder, head = model.get_decoder(), model.get_output_embeddings()
    own = {id(one) for module in (decoder, head) if module is not None for one in module.parameters()}
    named = dict(model.named_parameters(remove_duplicate=False))
    for name, found in places.items():
        if any(one in named and id(named[one]) not in own for one in found):
            raise UnsupportedCheckpoint(
                f"{where}: {name} is a tensor of {found[0]}, which is no part of the language model", FIELD
            )


def _ignored_by(model: "PreTrainedModel", names: Collection[str]) -> Iterator[str]:
    """Yields the names that the model's class says that it passes over."""
    patterns = model._keys_to_ignore_on_load_unexpected or ()
    yield from (name for name in names if any(re.search(pattern, name) for pattern in patterns))


def _check_shape(
    name: str, got: tuple[int, ...], wanted: tuple[int, ...], *, renamed: str, where: str
) -> None:
    """Raises UnsupportedCheckpoint for another number of values than the model has there; a converter may
    give them another shape."""
    if math.prod(got) != math.prod(wanted):
        raise UnsupportedCheckpoint(
            f"{where}: {name} has shape {list(got)}, and the model of its config.json has {list(wanted)} at "
            f"{renamed}; use the config.json that belongs to the weights",
            FIELD,
        )


def _some(names: list[str]) -> str:
    return ", ".join(names[:NAMED]) + (" ..." if len(names) > NAMED else "")
