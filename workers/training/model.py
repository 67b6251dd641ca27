"""Student and teacher are filled tensor by tensor. Under ZeRO 3 each tensor is partitioned as soon as it is
filled.

Dropout is off, so that the same data gives the same gradients however the work is split, and after a restart.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import deepspeed
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from pipeline.artifacts.refs import CheckpointRef
from pipeline.checkpoint.reader import CheckpointReader
from pipeline.checkpoint.skeleton import disk_names, skeleton
from pipeline.resolve.model_checks import check_trainable
from pipeline.spec.training_recipe import TrainingRecipe
from pipeline.storage.content import ContentStore
from pipeline.tensor.dtypes import TORCH_DTYPES
from workers.training.work import Work

DROPOUTS = (
    "attention_dropout",
    "activation_dropout",
    "attn_pdrop",
    "dropout",
    "embd_pdrop",
    "hidden_dropout",
    "layerdrop",
    "resid_pdrop",
)


@dataclass(frozen=True)
class Loaded:
    """A model that is to be trained. `names`: the checkpoint name of each parameter; `every_name`: the one of
    each tensor of its state dict."""

    model: PreTrainedModel
    reader: CheckpointReader
    names: dict[str, str]
    every_name: dict[str, str]


def load_student(work: Work, recipe: TrainingRecipe, config: Mapping[str, object]) -> Loaded:
    """Load the model of a training in training mode, partitioned under ZeRO 3."""
    content = work.settings.content()
    model, names = load_model(
        content,
        work.checkpoint,
        dtype=TORCH_DTYPES[recipe.precision],
        device=work.device,
        partition=config if work.resources.zero_stage == 3 else None,
    )
    reader = CheckpointReader(content, work.checkpoint)
    every_name = disk_names(model, reader)
    model.train()
    if work.resources.gradient_checkpointing:
        model.activation_checkpointing_enable({"use_reentrant": False})
    return Loaded(model, reader, names, every_name)


def load_model(
    content: ContentStore,
    ref: CheckpointRef,
    *,
    dtype: torch.dtype,
    device: torch.device,
    partition: Mapping[str, object] | None = None,
) -> tuple[PreTrainedModel, dict[str, str]]:
    """Load the model; return it with the checkpoint name of each of its parameters.

    `partition`: a DeepSpeed configuration of ZeRO 3 under which the parameters are partitioned over the
    workers while they are loaded. Raises InvalidSpec for a model with experts.
    """
    reader = CheckpointReader(content, ref)
    check_trainable(str(reader.config["model_type"]), "spec.recovery.trains")
    model = skeleton(reader, dtype, changes=dict.fromkeys(DROPOUTS, 0.0))
    names = disk_names(model, reader)
    owners = _owners(model)
    for name, parameter in list(model.named_parameters()):
        filled = nn.Parameter(reader.tensor(names[name]).to(device, dtype), requires_grad=False)
        for module, leaf in owners[parameter]:
            setattr(module, leaf, filled)
        if partition is not None:
            module, leaf = owners[parameter][0]
            _partition(module, leaf, partition)
    for module in model.modules():
        for name, buffer in module.named_buffers(recurse=False):
            module._buffers[name] = buffer.to(device)
    for name, buffer in model.named_buffers():
        if name in names:
            buffer.copy_(reader.tensor(names[name]))
    model.config.use_cache = False
    return model, {name: names[name] for name, _ in model.named_parameters()}


def _owners(model: nn.Module) -> dict[Tensor, list[tuple[nn.Module, str]]]:
    """Map each parameter to all modules that hold it: a tied parameter has several."""
    owners: dict[Tensor, list[tuple[nn.Module, str]]] = {}
    for module in model.modules():
        for leaf, parameter in module._parameters.items():
            if parameter is not None:
                owners.setdefault(parameter, []).append((module, leaf))
    return owners


def _partition(module: nn.Module, leaf: str, config: Mapping[str, object]) -> None:
    """Partition one parameter over the workers, and free the memory of the whole."""
    holder = nn.Module()
    holder.register_parameter(leaf, module._parameters[leaf])
    deepspeed.zero.Init(module=holder, config_dict_or_path=dict(config))
