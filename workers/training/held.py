"""Keep tensors while a model is trained: packed to bits, and shared out over the workers.

Shapes: keep tensors are bool in the shape of the weight, True = kept. Packed, weight 8·i + j in row-major
order is bit j of byte i (pipeline/tensor/packing.py).
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from pipeline.architecture.row import Architecture
from pipeline.artifacts.refs import CheckpointRef, KeepRef
from pipeline.checkpoint.keeps import KeepReader, held_tensors
from pipeline.checkpoint.reader import CheckpointReader
from pipeline.storage.content import ContentStore
from pipeline.tensor.packing import pack_keep
from workers.training import ranks

CHUNK = 2**24  # weights whose bits are unpacked at a time


class HeldKeep:
    """The keep tensor of one parameter. Each worker has an equal share of its bytes, a 1 / (8 · workers) of a
    byte per weight; for a moment, a reader has all bits of this one parameter, and a chunk of them unpacked.

    All workers call its methods, in the same order.
    """

    def __init__(self, keep: Tensor, device: torch.device) -> None:
        """`keep`: the whole tensor, equal on all workers."""
        self.shape = keep.shape
        self.kept = int(keep.sum())
        packed_B = pack_keep(keep.cpu().contiguous())
        each = -(-len(packed_B) // ranks.workers())
        own = packed_B[ranks.rank() * each : (ranks.rank() + 1) * each]
        padded = torch.zeros(each, dtype=torch.uint8)
        padded[: len(own)] = own
        self._own = padded.to(device)

    @property
    def bytes_here(self) -> int:
        """The bytes that this worker holds."""
        return len(self._own)

    def clear(self, values: Tensor) -> Tensor:
        """Multiply values in the parameter's shape by the keep tensor, in place."""
        # In place is safe for a gradient, as that of a linear is a tensor of its own. masked_fill takes five
        # times as long.
        packed_B = ranks.joined(self._own)
        rows = values.flatten(0, -2) if values.is_contiguous() and values.dim() > 2 else values
        width = math.prod(rows.shape[1:])
        step = max(1, CHUNK // width)
        for first in range(0, len(rows), step):
            some = rows[first : first + step]
            some.mul_(unpacked(packed_B, first * width, some.numel()).view(some.shape))
        return values

    def packed(self) -> Tensor:
        """The packed keep tensor, as it is stored."""
        return ranks.joined(self._own)[: -(-math.prod(self.shape) // 8)]

    def range(self, start: int, length: int) -> Tensor:
        """Flattened elements of the keep tensor, bool [length]."""
        return unpacked(ranks.joined(self._own), start, length)

    def whole(self) -> Tensor:
        """The keep tensor."""
        return self.range(0, math.prod(self.shape)).view(self.shape)


def cleared(update: Tensor, held: HeldKeep) -> Tensor:
    """A fresh tensor multiplied by a keep tensor, in place; differentiable. All workers call it, and take
    part in the backward pass. Nothing is saved for it but the packed bits."""
    result: Tensor = _Cleared.apply(update, held)
    return result


class _Context(Protocol):
    held: HeldKeep

    def mark_dirty(self, *tensors: Tensor) -> None: ...


class _Cleared(torch.autograd.Function):
    @staticmethod
    def forward(ctx: _Context, update: Tensor, held: HeldKeep) -> Tensor:
        ctx.held = held
        ctx.mark_dirty(update)
        return held.clear(update)

    @staticmethod
    def backward(ctx: _Context, gradient: Tensor) -> tuple[Tensor, None]:
        return ctx.held.clear(gradient.clone()), None


def unpacked(packed_B: Tensor, start: int, length: int) -> Tensor:
    """Some elements of a packed keep tensor, bool [length], on its device."""
    some = packed_B[start // 8 : -(-(start + length) // 8)]
    if not some.is_cuda:  # many times faster than torch there
        bytes_ = torch.from_numpy(np.unpackbits(some.numpy(), bitorder="little"))
        return bytes_[start % 8 : start % 8 + length].view(torch.bool)
    bits = torch.tensor([1, 2, 4, 8, 16, 32, 64, 128], dtype=torch.uint8, device=some.device)
    return (some[:, None] & bits).ne(0).view(-1)[start % 8 : start % 8 + length]


class StartingKeeps(Mapping[str, Tensor]):
    """The keep tensors that a training begins with, by checkpoint name, in the orientation of the stored
    weight. Each is read when it is asked for; the fastest order is block by block."""

    def __init__(self, content: ContentStore, checkpoint: CheckpointRef, keep: KeepRef) -> None:
        self._reader = KeepReader(content, checkpoint, keep)

    def __getitem__(self, name: str) -> Tensor:
        if name not in self._reader.tensors:
            raise KeyError(name)
        return self._reader.keep(name).contiguous()

    def __contains__(self, name: object) -> bool:
        return name in self._reader.tensors

    def __iter__(self) -> Iterator[str]:
        return iter(self._reader.tensors)

    def __len__(self) -> int:
        return len(self._reader.tensors)


class AllKept(Mapping[str, Tensor]):
    """The keep tensors of all prunable weights of a dense model, by checkpoint name."""

    def __init__(self, reader: CheckpointReader, row: Architecture) -> None:
        shapes = {name: entry.shape for name, entry in reader.index.tensors.items()}
        self._shapes = {one.name: shapes[one.name] for one in held_tensors(row, shapes)}

    def __getitem__(self, name: str) -> Tensor:
        return torch.ones(self._shapes[name], dtype=torch.bool)

    def __iter__(self) -> Iterator[str]:
        return iter(self._shapes)

    def __len__(self) -> int:
        return len(self._shapes)


def keep_of_parameter(disks: Sequence[str], keeps: Mapping[str, Tensor], shape: Sequence[int]) -> Tensor:
    """The keep tensor of a parameter that consists of the stored tensors `disks`, one after the other. Those
    that `keeps` lacks are dense."""
    each = math.prod(shape) // len(disks)
    parts = [
        keeps[disk].reshape(-1) if disk in keeps else torch.ones(each, dtype=torch.bool) for disk in disks
    ]
    return torch.cat(parts).view(*shape)
