"""A checkpoint's model as transformers builds it, without weights, and where each of its parameters lies.

transformers' models and accelerate take seconds to import; so they are imported by the functions that build.
"""

import re
import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor

from pipeline.architecture.row import Architecture
from pipeline.architecture.rows import row_for
from pipeline.checkpoint.experts import stored_names
from pipeline.checkpoint.reader import CheckpointReader
from pipeline.errors import UnsupportedCheckpoint

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

_BUILDING = threading.Lock()  # building without weights changes torch for all threads meanwhile


def skeleton(
    reader: CheckpointReader, dtype: torch.dtype, *, changes: Mapping[str, object] | None = None
) -> "PreTrainedModel":
    """The checkpoint's model without weights; buffers are real. `changes`: other values for fields that its
    config has."""
    from transformers import AutoConfig

    config = AutoConfig.for_model(**reader.config)
    for field, value in (changes or {}).items():
        if hasattr(config, field):
            setattr(config, field, value)
    return _without_weights(config, dtype)


def parameter_count(config: Mapping[str, object]) -> int:
    """Weights of the model that transformers makes from a config.json, tied ones once. Takes no memory for
    them."""
    from transformers import AutoConfig

    return int(_without_weights(AutoConfig.for_model(**config), torch.float32).num_parameters())


def _without_weights(config: "PreTrainedConfig", dtype: torch.dtype) -> "PreTrainedModel":
    from accelerate import init_empty_weights
    from transformers import AutoModelForCausalLM

    with _BUILDING:  # while one thread builds, what any thread registers becomes another, empty parameter
        with init_empty_weights(include_buffers=False):
            model = AutoModelForCausalLM.from_config(config, dtype=dtype)
        model.tie_weights()  # building without weights has made tied ones two
    return cast("PreTrainedModel", model.eval().requires_grad_(False))


def disk_names(model: "PreTrainedModel", reader: CheckpointReader) -> dict[str, str]:
    """Module name → checkpoint name, for every parameter and persistent buffer; tied ones share a name. In
    the place of fused experts there are the matrices of each, by the names that they are stored under.

    Checkpoints saved from the base model lack its prefix, some types call things otherwise than their modules
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
