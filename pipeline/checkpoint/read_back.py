"""A quantized form read back as an ordinary checkpoint, so that it can be walked and certified as one."""

import math
from collections.abc import Callable, Generator
from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.artifacts.refs import CheckpointRef
from pipeline.checkpoint.assemble import StoredTensors, assemble
from pipeline.checkpoint.reader import CheckpointReader
from pipeline.checkpoint.stream import BlockStream
from pipeline.checkpoint.writer import copy_tensors, put_tensors
from pipeline.errors import CorruptObject, ZerosLost
from pipeline.storage.content import ContentStore
from pipeline.tensor.zeros import first_revived

DIGITS = 6  # of the error, whose sums may end otherwise on another machine


@dataclass(frozen=True)
class ReadBack:
    """What was read: a checkpoint whose quantized matrices are float32, the number of these matrices and of
    their weights, how many weights were zero before and are zero now, and ||W' - W|| / ||W||."""

    checkpoint: CheckpointRef
    matrices: int
    weights: int
    held: int
    zeros: int
    error: float


def read_back(
    content: ContentStore, final: CheckpointRef, read: Callable[[str], Tensor], *, where: str
) -> Generator[int, None, ReadBack]:
    """Stores `final` with the matrices that `read` gives by their names, float32 in the stored orientation,
    in place of its prunable ones. Yields the number of blocks that are done. `where`: the form, for errors.

    Raises ZerosLost, which names tensor and position, for a weight that is zero in `final` and not in the
    form, and CorruptObject for a matrix of another shape, or one that is not finite.
    """
    reader = CheckpointReader(content, final)
    stream = BlockStream(reader, dtype=torch.float32, device=torch.device("cpu"))
    outer = copy_tensors(content, "outer.safetensors", reader, stream.outer_tensors())
    parts, counts = [StoredTensors.of(outer)], _Counts()
    for block in range(stream.num_blocks):
        linears = {f"{linear}.weight" for group in stream.groups(block) for linear in group}
        tensors = {}
        for name, disk in stream.block_tensors(block).items():
            before = reader.tensor(disk)
            tensors[disk] = _checked(disk, before, read(disk), where) if name in linears else before
            if name in linears:
                counts.add(before, tensors[disk])
        parts.append(StoredTensors.of(put_tensors(content, f"block-{block:05d}.safetensors", tensors)))
        yield block + 1
    return counts.over(assemble(content, final, parts))


class _Counts:
    def __init__(self) -> None:
        self._matrices = self._weights = self._held = self._zeros = 0
        self._apart = self._whole = 0.0

    def add(self, before: Tensor, after: Tensor) -> None:
        self._matrices += 1
        self._weights += before.numel()
        self._held += before.numel() - int(torch.count_nonzero(before))
        self._zeros += after.numel() - int(torch.count_nonzero(after))
        self._apart += float((after.double() - before.double()).square().sum())
        self._whole += float(before.double().square().sum())

    def over(self, checkpoint: CheckpointRef) -> ReadBack:
        error = math.sqrt(self._apart / self._whole) if self._whole else 0.0
        return ReadBack(
            checkpoint, self._matrices, self._weights, self._held, self._zeros, round(error, DIGITS)
        )


def _checked(name: str, before: Tensor, after: Tensor, where: str) -> Tensor:
    if after.shape != before.shape or not bool(torch.isfinite(after).all()):
        raise CorruptObject(
            f"{name} of {where} is read back as {list(after.shape)}, and not finite or not "
            f"{list(before.shape)} as it was before; the library that wrote it does not read it"
        )
    position = first_revived(after, before != 0)
    if position is not None:
        raise ZerosLost(
            f"{name} {list(position)} is zero, and {float(after[position]):.6g} as {where} is read back"
        )
    return after.contiguous()
