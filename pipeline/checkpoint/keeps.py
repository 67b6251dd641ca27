"""The keep tensors of a checkpoint: stored packed and [O, I], and returned in the orientation of the stored
weight.

Shape legend: O out_features, I in_features.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Protocol

import torch
from safetensors.torch import load
from torch import Tensor

from pipeline.architecture.row import Architecture
from pipeline.architecture.rows import row_for
from pipeline.architecture.wrappers import spellings
from pipeline.artifacts.artifact import FileRef
from pipeline.artifacts.curve import BlockFits
from pipeline.artifacts.refs import CheckpointRef, KeepRef
from pipeline.artifacts.sparsity import ExpertTable, LinearSparsity, SparsityTable
from pipeline.checkpoint.reader import CheckpointReader
from pipeline.checkpoint.slices import matrix_name
from pipeline.checkpoint.writer import put_tensors
from pipeline.errors import CorruptObject
from pipeline.storage.content import ContentStore
from pipeline.tensor.packing import pack_keep, unpack_keep


@dataclass(frozen=True)
class HeldTensor:
    """A stored weight that has a keep tensor: its name in the checkpoint, its block, and its linear."""

    name: str
    block: int
    linear: str


class Keeps(Protocol):
    """The keep tensors of a checkpoint, wherever they are stored. `tensors`: by name, block by block."""

    @property
    def row(self) -> Architecture:
        """The architecture of the checkpoint's model type."""
        ...

    @property
    def tensors(self) -> Mapping[str, HeldTensor]:
        """The weights that have a keep tensor."""
        ...

    def matrix(self, name: str) -> Tensor:
        """Returns the keep tensor of a weight, bool [O, I]."""
        ...


class KeepReader:
    """Reads the keep tensors that belong to a checkpoint. At most one block of them is in memory, packed."""

    def __init__(self, content: ContentStore, checkpoint: CheckpointRef, keep: KeepRef) -> None:
        self._content = content
        self._keep = keep
        reader = CheckpointReader(content, checkpoint)
        self._shapes = {name: entry.shape for name, entry in reader.index.tensors.items()}
        self.row = row_for(str(reader.config["model_type"]))
        held = held_tensors(self.row, self._shapes, {file.path for file in keep.files})
        self.tensors: dict[str, HeldTensor] = {one.name: one for one in held}
        self._block = -1
        self._packed: dict[str, Tensor] = {}

    def matrix(self, name: str) -> Tensor:
        """Returns the keep tensor of a weight, bool [O, I]. Raises CorruptObject when it is missing."""
        block = self.tensors[name].block
        if block != self._block:
            self._packed = load(self._content.get_bytes(self._keep.file(_path(block))))
            self._block = block
        if name not in self._packed:
            raise CorruptObject(f"{_path(block)} of the keep tensors lacks {name}, which the checkpoint has")
        shape, transposed = self._shapes[name], self.row.is_transposed(self.tensors[name].linear)
        return unpack_keep(self._packed[name], shape[::-1] if transposed else shape)

    def keep(self, name: str) -> Tensor:
        """Returns the keep tensor in the orientation in which the checkpoint stores the weight."""
        return turned(self.matrix(name), self.row, self.tensors[name].linear)


def turned(matrix: Tensor, row: Architecture, linear: str = "") -> Tensor:
    """Turns [O, I] into the orientation in which the model type stores a linear, or back. Returns a view.

    GPT-2 stores [I, O], all others [O, I], but for the experts of GPT-OSS: `linear` says which it is, and may
    be left out where there are no experts."""
    return matrix.t() if row.is_transposed(linear) else matrix


def load_keep(content: ContentStore, checkpoint: CheckpointRef, keep: KeepRef) -> dict[str, Tensor]:
    """Maps the checkpoint name of each pruned weight to its keep tensor, oriented like the stored weight."""
    reader = KeepReader(content, checkpoint, keep)
    return {name: reader.keep(name).contiguous() for name in reader.tensors}


def put_keep(
    content: ContentStore,
    checkpoint: CheckpointRef,
    keeps: Mapping[str, Tensor],
) -> KeepRef:
    """Stores `keeps` (as load_keep returns them) of a stored checkpoint, whose weights give the counts of
    zeros.

    The layout is that of the prune stage: equal keep tensors and zeros give an equal artifact.
    """
    reader = CheckpointReader(content, checkpoint)
    row = row_for(str(reader.config["model_type"]))
    files, linears = [], []
    for held in _by_block(held_tensors(row, reader.index.tensors), keeps):
        file, counted = put_block_keeps(content, held, keeps, reader.tensor, row=row)
        files.append(file)
        linears += counted
    return keep_ref(content, files, linears)


def put_block_keeps(
    content: ContentStore,
    held: Sequence[HeldTensor],
    keeps: Mapping[str, Tensor],
    weight: Callable[[str], Tensor],
    *,
    row: Architecture,
) -> tuple[FileRef, list[LinearSparsity]]:
    """Stores the keep tensors of one block, oriented like the stored weights, and counts the zeros of its
    linears. `weight`: gives a weight by its checkpoint name."""
    packed = {one.name: pack_keep(turned(keeps[one.name], row, one.linear).cpu()) for one in held}
    linears = []
    for one in held:
        values = weight(one.name)
        linears.append(
            LinearSparsity(
                block=one.block,
                linear=one.linear,
                pruned=int((~keeps[one.name]).sum()),
                zeros=values.numel() - int(torch.count_nonzero(values)),
                weights=values.numel(),
            )
        )
    return put_block_keep(content, held[0].block, packed), linears


def put_block_keep(content: ContentStore, block: int, packed: Mapping[str, Tensor]) -> FileRef:
    """Stores the packed keep tensors of one block, by the checkpoint names of their weights."""
    file, _ = put_tensors(content, _path(block), packed, apart=True)
    return file


def keep_ref(
    content: ContentStore,
    files: Iterable[FileRef],
    linears: Iterable[LinearSparsity],
    *,
    experts: ExpertTable | None = None,
    fits: BlockFits | None = None,
) -> KeepRef:
    """Returns the artifact of all blocks' keep tensors, the zeros of linears, and the other tables if there
    are any."""
    beside = (one for one in (experts, fits) if one is not None)
    return KeepRef.made(content, SparsityTable(linears=tuple(linears)), *beside, files=files)


def held_tensors(
    row: Architecture, stored: Iterable[str], paths: set[str] | None = None
) -> Iterator[HeldTensor]:
    """Yields the prunable weights among the stored tensors, block by block; with `paths`, only those of
    blocks whose file is one of them.

    Checkpoints saved from the base model lack the first part of a name, some types have another one, and in
    multimodal ones it is longer.
    """
    names = set(stored)
    block = 0
    for stack, _ in row.stacks:
        for number in count():
            prefix = f"{stack}.{number}."
            renamed = (prefix.replace(*row.renamed),) if row.renamed else ()
            spelled = (*spellings(prefix), *renamed, prefix.partition(".")[2])
            prefix = next((one for one in spelled if any(name.startswith(one) for name in names)), prefix)
            own = [name.removeprefix(prefix) for name in names if name.startswith(prefix)]
            inside = {matrix_name(row.experts, name): name for name in own}
            found = [
                HeldTensor(name=f"{prefix}{inside[f'{linear}.weight']}", block=block, linear=linear)
                for group in row.groups_in(inside)
                for linear in group
                if f"{linear}.weight" in inside
            ]
            if not found:
                break
            if paths is None or _path(block) in paths:
                yield from found
            block += 1


def _path(block: int) -> str:
    return f"keep-{block:05d}.safetensors"


def _by_block(held: Iterable[HeldTensor], keeps: Mapping[str, Tensor]) -> Iterator[list[HeldTensor]]:
    blocks: dict[int, list[HeldTensor]] = {}
    for one in held:
        if one.name in keeps:
            blocks.setdefault(one.block, []).append(one)
    unknown = set(keeps) - {one.name for held in blocks.values() for one in held}
    assert not unknown, f"keep tensors of weights that the checkpoint does not have: {sorted(unknown)[:3]}"
    yield from blocks.values()
