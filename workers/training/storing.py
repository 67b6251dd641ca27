"""The tensors of a trained model on their way into a stored checkpoint."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from pipeline.artifacts.artifact import FileRef
from pipeline.artifacts.sparsity import LinearSparsity
from pipeline.checkpoint.assemble import StoredTensors
from pipeline.checkpoint.keeps import held_tensors, put_block_keeps
from pipeline.checkpoint.reader import DTYPES, CheckpointReader
from pipeline.checkpoint.writer import put_tensors
from pipeline.errors import ZerosLost
from pipeline.spec.recovery import Lora
from pipeline.storage.content import ContentStore
from pipeline.tensor.zeros import first_revived
from workers.training import expert_lora
from workers.training.certified import tensor_digest
from workers.training.engine import Engine
from workers.training.expert_lora import Slice
from workers.training.guard import Guard
from workers.training.lora import A, B, merged_weight
from workers.training.work import Work


@dataclass(frozen=True)
class Collected:
    """The trained values of a stored tensor, float32, on the CPU of the worker that stores it: its weights,
    or the two matrices of its adapter; empty where nothing of it is trained. `keep`: flattened, where zeros
    move."""

    values: tuple[Tensor, ...] = ()
    keep: Tensor | None = None


@dataclass(frozen=True)
class Written:
    """A stored part. `digests`: those of its trained tensors. `held`: the number of weights that are held at
    zero. `keep` and `linears`: its keep tensors, where zeros move."""

    tensors: StoredTensors
    digests: dict[str, str]
    held: int
    keep: FileRef | None
    linears: tuple[LinearSparsity, ...]


class Storing:
    """Collects and writes the parts of a student (by_shares). `keeps`: the keep tensors that it began with,
    by checkpoint name. `moving`: the guard whose keep tensors have moved since, if they do."""

    def __init__(
        self,
        work: Work,
        reader: CheckpointReader,
        engine: Engine,
        *,
        stored: Mapping[str, Sequence[str]],
        keeps: Mapping[str, Tensor],
        moving: Guard | None,
        lora: Lora | None,
    ) -> None:
        self._content: ContentStore = work.settings.content()
        self._row = work.row
        self._reader = reader
        self._engine = engine
        self._keeps = keeps
        self._moving = moving
        self._lora = lora
        self._places: dict[str, tuple[str, int]] = {}  # checkpoint name → parameter, place in it
        self._adapted: dict[str, tuple[Slice, Slice]] = {}  # checkpoint name → A and B of its adapter
        for name, disks in stored.items():
            path = name.removesuffix(".weight")
            if name in engine.parameters:
                self._places |= {disk: (name, number) for number, disk in enumerate(disks)}
            elif f"{path}{A}" in engine.parameters:
                self._adapted[disks[0]] = (self._matrix(f"{path}{A}"), self._matrix(f"{path}{B}"))
            elif f"{name}{expert_lora.A}" in engine.parameters:
                self._adapted |= expert_lora.slices(name, disks, engine.shapes)

    @property
    def trained(self) -> frozenset[str]:
        """The checkpoint names of the tensors that training has changed."""
        return frozenset({*self._places, *self._adapted})

    def collect(self, disk: str, worker: int) -> Collected:
        """Give a tensor's trained values to `worker`. All workers call it."""
        if disk in self._adapted:
            both = [self._slice(one, worker) for one in self._adapted[disk]]
            return Collected(values=tuple(one for one in both if one is not None))
        if disk not in self._places:
            return Collected()
        name, number = self._places[disk]
        length = math.prod(self._reader.index.tensors[disk].shape)
        weights = self._engine.collected(name, number * length, length, worker)
        keep = None
        if self._moving is not None and name in self._moving.keeps:
            keep = self._moving.keeps[name].range(number * length, length)
        if weights is None:
            return Collected()
        return Collected((weights.cpu(),), None if keep is None else keep.cpu())

    def write(self, number: int, part: Mapping[str, Collected]) -> Written:
        """Store a part, in the types of the checkpoint. Raises ZerosLost when a pruned weight is not zero."""
        tensors, digests, held = {}, {}, 0
        keeps: dict[str, Tensor] = {}
        for disk, collected in part.items():
            tensor = self._tensor(disk, collected)
            tensors[disk] = tensor
            if disk in self.trained:
                digests[disk] = tensor_digest(tensor)
            keep = self._keeps.get(disk)
            if collected.keep is not None:
                keep = keeps[disk] = collected.keep.view(tensor.shape)
            if keep is not None:
                held += _checked(disk, tensor, keep)
        file: FileRef | None = None
        linears: list[LinearSparsity] = []
        if keeps:
            own = [one for one in held_tensors(self._row, self._reader.index.tensors) if one.name in keeps]
            file, linears = put_block_keeps(self._content, own, keeps, tensors.__getitem__, row=self._row)
        stored = StoredTensors.of(put_tensors(self._content, "part.safetensors", tensors))
        return Written(stored, digests, held, file, tuple(linears))

    def _matrix(self, name: str) -> Slice:
        rows, columns = self._engine.shapes[name]
        return Slice(name, 0, (rows, columns))

    def _slice(self, one: Slice, worker: int) -> Tensor | None:
        flat = self._engine.collected(one.name, one.start, math.prod(one.shape), worker)
        return None if flat is None else flat.view(one.shape).cpu()

    def _tensor(self, disk: str, collected: Collected) -> Tensor:
        entry = self._reader.index.tensors[disk]
        if disk in self._adapted:
            assert self._lora is not None
            a_RI, b_OR = collected.values
            base, keep = self._reader.tensor(disk), self._keeps.get(disk)
            return merged_weight(base, a_RI, b_OR, self._lora, keep, row=self._row)
        if not collected.values:
            return self._reader.tensor(disk)
        return collected.values[0].view(entry.shape).to(DTYPES[entry.dtype])


def _checked(disk: str, tensor: Tensor, keep: Tensor) -> int:
    """Count the zeros that are held. Raises ZerosLost when a pruned weight is not zero."""
    position = first_revived(tensor, keep)
    if position is not None:
        raise ZerosLost(
            f"{disk}{list(position)} is {float(tensor[position]):g} after the shares of all workers were put "
            f"together: a pruned weight has come back; nothing is published"
        )
    return int((~keep).sum())
