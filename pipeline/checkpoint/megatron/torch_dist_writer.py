"""Writes `torch_dist` as megatron-core's dist_checkpointing loads it: blocks stacked, one piece for each
block.

torch.distributed.checkpoint writes the files; our own planner computes each piece when it is written.
"""

import io
import json
import warnings
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor
from torch.distributed.checkpoint.filesystem import FileSystemWriter
from torch.distributed.checkpoint.metadata import (
    BytesStorageMetadata,
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    StorageMeta,
    TensorProperties,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.planner import (
    SavePlan,
    SavePlanner,
    TensorWriteData,
    WriteItem,
    WriteItemType,
)
from torch.distributed.checkpoint.state_dict_saver import save

from pipeline.checkpoint.megatron.mapping import BLOCKS
from pipeline.checkpoint.megatron.parameters import Parameter
from pipeline.checkpoint.megatron.torch_dist import SETTINGS
from pipeline.checkpoint.megatron.whole import Implementation, WholeParameters

BACKENDS = {
    "sharded_backend": "torch_dist",
    "sharded_backend_version": 1,
    "common_backend": "torch",
    "common_backend_version": 1,
}


def write_torch_dist(whole: WholeParameters, directory: Path, *, implementation: Implementation) -> None:
    """Writes the checkpoint into `directory`. Memory holds one parameter of one block."""
    writer = FileSystemWriter(directory, thread_count=1)
    with warnings.catch_warnings():  # torch warns about a single process, which `no_dist` requests
        warnings.filterwarnings("ignore", "torch.distributed is disabled", UserWarning)
        save({}, storage_writer=writer, planner=_Planner(whole), no_dist=True)
    torch.save(whole.beside(layout="torch_dist", implementation=implementation), directory / SETTINGS)
    (directory / "metadata.json").write_text(json.dumps(BACKENDS), encoding="utf-8")


class _Planner(SavePlanner):
    """Decides where each piece is written, and computes it when it is written."""

    def __init__(self, whole: WholeParameters) -> None:
        self._whole = whole
        self._pieces = {_index(parameter, whole): parameter for parameter in whole.parameters}

    def set_up_planner(
        self,
        state_dict: Mapping[str, object],
        storage_meta: StorageMeta | None = None,
        is_coordinator: bool = False,
    ) -> None:
        """Does nothing: there is no state dict, because pieces are computed when they are written."""

    def create_local_plan(self) -> SavePlan:
        """Plans a piece for each parameter of each block, in the order in which they run."""
        states = [WriteItem(MetadataIndex(name), WriteItemType.BYTE_IO) for name in _states(self._whole)]
        return SavePlan(
            [*states, *(self._item(index, parameter) for index, parameter in self._pieces.items())]
        )

    def create_global_plan(self, all_plans: list[SavePlan]) -> tuple[list[SavePlan], Metadata]:
        """Builds the metadata of all files, which one process writes."""
        tensors: dict[str, TensorStorageMetadata] = {}
        others: dict[str, BytesStorageMetadata] = {}
        for item in all_plans[0].items:
            data = item.tensor_data
            if data is None:
                others[item.index.fqn] = BytesStorageMetadata()
                continue
            entry = TensorStorageMetadata(data.properties, data.size, [])
            tensors.setdefault(item.index.fqn, entry).chunks.append(data.chunk)
        return all_plans, Metadata({**tensors, **others})

    def finish_plan(self, new_plan: SavePlan) -> SavePlan:
        """Returns the plan unchanged."""
        return new_plan

    def resolve_data(self, write_item: WriteItem) -> Tensor | io.BytesIO:
        """Returns a piece's values."""
        if write_item.type == WriteItemType.BYTE_IO:
            empty = io.BytesIO()
            torch.save([None], empty)
            return empty
        parameter = self._pieces[write_item.index]
        tensor = self._whole.tensor(parameter)
        return tensor if parameter.block is None else tensor[None]

    def _item(self, index: MetadataIndex, parameter: Parameter) -> WriteItem:
        facts = self._whole.facts[parameter]
        stacked = () if parameter.block is None else (1,)
        size = facts.shape if parameter.block is None else (self._whole.blocks, *facts.shape)
        assert index.offset is not None, "_index sets it"
        return WriteItem(
            index=index,
            type=WriteItemType.SHARD,
            tensor_data=TensorWriteData(
                chunk=ChunkStorageMetadata(index.offset, torch.Size((*stacked, *facts.shape))),
                properties=TensorProperties(dtype=facts.dtype),
                size=torch.Size(size),
            ),
        )


def _index(parameter: Parameter, whole: WholeParameters) -> MetadataIndex:
    zeros = (0,) * len(whole.facts[parameter].shape)
    if parameter.block is None:
        return MetadataIndex(parameter.name, zeros)
    return MetadataIndex(f"{BLOCKS}{parameter.row.name}", (parameter.block, *zeros))


def _states(whole: WholeParameters) -> list[str]:
    """Returns the names of the state that Megatron's linears store for Transformer Engine: it is empty, but
    required."""
    linears = {one.row.module for one in whole.parameters if one.block is not None and one.row.is_linear}
    return [
        f"{BLOCKS}{linear}._extra_state/shard_{block}_{whole.blocks}"
        for linear in sorted(linears)
        for block in range(whole.blocks)
    ]
