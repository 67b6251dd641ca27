"""Student and teacher are filled tensor by tensor, each of which one worker reads for all. Under ZeRO 3 it
sends each worker no more than its shard.

Dropout is off, so that the same data gives the same gradients however the work is split, and after a restart.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from pipeline.artifacts.refs import CheckpointRef
from pipeline.checkpoint.reader import CheckpointReader
from pipeline.checkpoint.skeleton import disk_names, skeleton, stored_parts
from pipeline.spec.training_recipe import TrainingRecipe
from pipeline.storage.content import ContentStore
from pipeline.tensor.dtypes import TORCH_DTYPES
from workers.training import ranks
from workers.training.engine import Partitioner
from workers.training.turns import Turns
from workers.training.work import Work

DROPOUTS = (
    "attention_dropout",
    "activation_dropout",
    "attn_pdrop",
    "dropout",
    "embd_pdrop",
    "embedding_dropout",
    "hidden_dropout",
    "layerdrop",
    "resid_pdrop",
    "residual_dropout",
)


@dataclass(frozen=True)
class Loaded:
    """A model with its weights. `stored`: the checkpoint names of the tensors that each parameter
    consists of, one after the other; `every_name`: the one of each tensor of its state dict."""

    model: PreTrainedModel
    reader: CheckpointReader
    stored: dict[str, tuple[str, ...]]
    every_name: dict[str, str]

    @property
    def names(self) -> dict[str, str]:
        """The checkpoint name of each parameter that is one stored tensor; fused experts are not among
        them."""
        return {name: disks[0] for name, disks in self.stored.items() if len(disks) == 1}


def load_student(work: Work, recipe: TrainingRecipe, config: Mapping[str, object]) -> Loaded:
    """Load the model of a training in training mode, partitioned under ZeRO 3."""
    loaded = load_model(
        work.settings.content(),
        work.checkpoint,
        dtype=TORCH_DTYPES[recipe.precision],
        device=work.device,
        partition=config if work.resources.zero_stage == 3 else None,
    )
    loaded.model.train()
    if work.resources.gradient_checkpointing:
        loaded.model.activation_checkpointing_enable({"use_reentrant": False})
    if work.resources.compile:
        for block in loaded.model.get_submodule(work.row.blocks).children():
            block.compile()
    return loaded


def load_model(
    content: ContentStore,
    ref: CheckpointRef,
    *,
    dtype: torch.dtype,
    device: torch.device,
    partition: Mapping[str, object] | None = None,
) -> Loaded:
    """Load a model for forward passes, each tensor on one worker, which sends it to the others. All workers
    call it.

    `partition`: a DeepSpeed configuration of ZeRO 3 under which the parameters are partitioned over the
    workers, each of which gets its shard alone.
    """
    partitioner = None if partition is None else Partitioner(partition)
    reader = CheckpointReader(content, ref)
    model = skeleton(reader, dtype, changes=dict.fromkeys(DROPOUTS, 0.0))
    names = disk_names(model, reader)
    stored = stored_parts(model, names)
    owners = _owners(model)
    with Turns(reader.tensor, [disk for disks in stored.values() for disk in disks]) as turns:
        for name, parameter in list(model.named_parameters()):
            filled = nn.Parameter(
                torch.empty(parameter.shape, dtype=dtype, device=device), requires_grad=False
            )
            for module, leaf in owners[parameter]:
                setattr(module, leaf, filled)
            if partitioner is None:
                for part in filled.view(len(stored[name]), -1):
                    turns.fill(part)
            else:
                size = filled.numel()
                _fill_shard(turns, partitioner.shard(filled), size, parts=len(stored[name]), device=device)
    for module in model.modules():
        for name, buffer in module.named_buffers(recurse=False):
            module._buffers[name] = buffer.to(device)
    for name, buffer in model.named_buffers():
        if name in names:
            buffer.copy_(reader.tensor(names[name]))
    model.config.use_cache = False
    return Loaded(model, reader, stored, names)


def _owners(model: nn.Module) -> dict[Tensor, list[tuple[nn.Module, str]]]:
    """Map each parameter to all modules that hold it: a tied parameter has several."""
    owners: dict[Tensor, list[tuple[nn.Module, str]]] = {}
    for module in model.modules():
        for leaf, parameter in module._parameters.items():
            if parameter is not None:
                owners.setdefault(parameter, []).append((module, leaf))
    return owners


def _fill_shard(turns: Turns, shard: Tensor, size: int, *, parts: int, device: torch.device) -> None:
    """Fill this worker's shard of a parameter of `size` elements, which is stored in equal parts."""
    each, own = size // parts, len(shard)
    for first in range(0, size, each):
        edges = [min(max(worker * own - first, 0), each) for worker in range(ranks.workers() + 1)]
        low, high = (first + edge - ranks.rank() * own for edge in edges[ranks.rank() : ranks.rank() + 2])
        turns.hand_out(shard[low:high], edges, device)
