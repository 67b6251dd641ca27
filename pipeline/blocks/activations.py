"""Hidden states of a worker's sequences. They lie where the blocks run up to a limit, then, if that is a GPU,
in the host's memory up to another, and beyond in a file on the local disk. They can be stored, so that a
later attempt continues from them with any number of workers.

Shape legend: L tokens of a sequence, H hidden size.
"""

import os
import tempfile
import weakref
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.blocks.snapshot_copy import SnapshotCopy, StoredPart, tensor_bytes
from pipeline.canonical import Frozen, sha256_hex
from pipeline.errors import CorruptObject
from pipeline.storage.base import Store
from pipeline.tensor.devices import settle


class StoredActivations(Frozen):
    """The activations of all workers that enter `block`, by name."""

    block: int
    parts: dict[str, tuple[StoredPart, ...]]

    @property
    def keys(self) -> tuple[str, ...]:
        """The keys of all objects."""
        return tuple(part.key for parts in self.parts.values() for part in parts)


@dataclass
class MemoryBudget:
    """The number of bytes that activations may still take in the host's memory, `left`, and in that of the
    GPU that the blocks run on, `on_gpu` (None: as many as there are). Several Activations may share it."""

    left: int
    on_gpu: int | None = None


class Activations(Sequence[Tensor]):
    """Hidden states [1, L, H] by sequence, on the device of `hidden`. `budget` limits those that stay there,
    and those that stay in memory; with None all stay where they are."""

    def __init__(self, hidden: Iterator[Tensor], *, budget: MemoryBudget | None) -> None:
        self._budget = budget
        self._held: list[Tensor | int] = []  # a number is an offset in the file
        self._like: list[Tensor] = []  # the shape and type of each, without memory
        self._device = torch.device("cpu")
        self._descriptor: int | None = None
        self._copy: SnapshotCopy | None = None
        self.spilled_bytes = 0
        for one in hidden:
            self._append(one)

    def __len__(self) -> int:
        return len(self._held)

    def __getitem__(self, i: int) -> Tensor:  # type: ignore[override]
        held = self._held[i]
        if isinstance(held, Tensor):
            return held.to(self._device, non_blocking=True)
        return self._read(held, self._like[i]).to(self._device)

    def __setitem__(self, i: int, hidden: Tensor) -> None:
        if self._copy is not None:
            self._copy.wait_for(i)
        held = self._held[i]
        if isinstance(held, Tensor):
            held.copy_(hidden, non_blocking=True)  # whoever reads it on the CPU calls settle() before
            return
        _write(self._file(), tensor_bytes(hidden), held)

    def copy(self, *, first: int) -> "SnapshotCopy":
        """Begins a copy of all hidden states as they are now, which another thread makes. Until one is
        copied, it is not replaced."""
        settle(self._device)
        self._copy = SnapshotCopy(self, first=first)
        return self._copy

    def restore(self, store: Store, parts: Sequence[StoredPart], *, first: int) -> None:
        """Replaces every hidden state by the stored one, whichever worker stored it. Raises CorruptObject."""
        for i, like in enumerate(self._like):
            sample = first + i
            part = next(one for one in parts if one.first <= sample < one.first + len(one.digests))
            at = sample - part.first
            data = bytearray().join(store.get(part.key, start=at * part.size, length=part.size))
            if sha256_hex(bytes(data)) != part.digests[at]:
                raise CorruptObject(f"{part.key} has changed since it was written; submit the job again")
            self[i] = _tensor(data, like)

    def _append(self, hidden: Tensor) -> None:
        self._device = hidden.device
        self._like.append(torch.empty_like(hidden, device="meta"))
        size = hidden.numel() * hidden.element_size()
        if self._stays(hidden, size):
            self._held.append(hidden)
            return
        if self._budget is not None and hidden.device.type != "cpu" and size <= self._budget.left:
            self._budget.left -= size
            pinned = torch.empty(hidden.shape, dtype=hidden.dtype, device="cpu", pin_memory=True)
            self._held.append(pinned.copy_(hidden, non_blocking=True))
            return
        self._held.append(self.spilled_bytes)
        _write(self._file(), tensor_bytes(hidden), self.spilled_bytes)
        self.spilled_bytes += size

    def _stays(self, hidden: Tensor, size: int) -> bool:
        """Tells whether there is room for it where it is, and takes that room."""
        if self._budget is None:
            return True
        on_cpu = hidden.device.type == "cpu"
        room = self._budget.left if on_cpu else self._budget.on_gpu
        if room is None:
            return True
        if size > room:
            return False
        if on_cpu:
            self._budget.left -= size
        else:
            self._budget.on_gpu = room - size
        return True

    def _read(self, at: int, like: Tensor) -> Tensor:
        """Returns a hidden state from the file, on the CPU."""
        data = bytearray(like.numel() * like.element_size())
        read = os.preadv(self._file(), [data], at)
        assert read == len(data), "the file of spilled activations is shorter than what was written"
        return _tensor(data, like)

    def _file(self) -> int:
        """Returns a file without a name that lives as long as this object."""
        if self._descriptor is None:
            self._descriptor, path = tempfile.mkstemp(prefix="secateur-activations-")
            os.unlink(path)
            weakref.finalize(self, os.close, self._descriptor)
        return self._descriptor


def _tensor(data: bytearray, like: Tensor) -> Tensor:
    return torch.frombuffer(data, dtype=like.dtype).reshape(like.shape)


def _write(file: int, data: memoryview, at: int) -> None:
    while data:
        written = os.pwrite(file, data, at)
        data, at = data[written:], at + written
