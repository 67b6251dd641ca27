"""A copy of a worker's activations at one moment, made and stored by a thread while the walk goes on.

The copy is written to the local disk first, which is fast, and sent to the store from there. The walk waits
only where it is about to replace a hidden state that is not copied yet.
"""

import tempfile
import threading
from collections.abc import Iterator, Sequence
from typing import IO

import torch
from torch import Tensor

from pipeline.canonical import Frozen, sha256_hex
from pipeline.storage.base import Store


class StoredPart(Frozen):
    """Consecutive sequences of one worker, from `first` on, stored in one object with `size` bytes per
    sequence."""

    key: str
    first: int
    size: int
    digests: tuple[str, ...]


class SnapshotCopy:
    """`hidden`: the activations to copy, by sequence; the first of them has the number `first`."""

    def __init__(self, hidden: Sequence[Tensor], *, first: int) -> None:
        self._hidden = hidden
        self._count = len(hidden)
        self._first = first
        self._copied = 0
        self._moved = threading.Condition()
        self._file: IO[bytes] | None = None

    def wait_for(self, i: int) -> None:
        """Returns when hidden state `i` may be replaced."""
        with self._moved:
            self._moved.wait_for(lambda: self._copied > i)

    def make(self) -> None:
        """Copies all hidden states to a file without a name on the local disk."""
        self._file = tempfile.TemporaryFile(prefix="secateur-snapshot-")  # noqa: SIM115 - store() closes it
        for i, one in enumerate(self._hidden):
            self._file.write(tensor_bytes(one))
            self._reached(i + 1)

    def end(self) -> None:
        """Lets the walk replace everything: the copy is made, or failed."""
        self._reached(self._count)
        self._hidden = ()

    def store(self, store: Store, key: str) -> StoredPart | None:
        """Sends the copy to the store as one object and returns its description, or None if there are no
        hidden states."""
        assert self._file is not None, "make() comes first"
        with self._file as file:
            if not self._count:
                return None
            size = file.tell() // self._count
            file.seek(0)
            digests: list[str] = []

            def chunks() -> Iterator[bytes]:
                for _ in range(self._count):
                    data = file.read(size)
                    digests.append(sha256_hex(data))
                    yield data

            store.put(key, chunks())
        return StoredPart(key=key, first=self._first, size=size, digests=tuple(digests))

    def _reached(self, copied: int) -> None:
        with self._moved:
            self._copied = copied
            self._moved.notify_all()


def tensor_bytes(tensor: Tensor) -> memoryview:
    """Returns the bytes of a tensor, wherever it lies."""
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data
