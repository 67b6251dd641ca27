"""What a worker does beside the block that it computes, in one thread: it reads the block that comes next,
and stores the one before.

The thread does one thing after the other. A block is stored before the next but one is read, so that beside
the block at work there is at most one other in memory.
"""

from collections.abc import Callable, Hashable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

from torch import Tensor

from pipeline.checkpoint.reader import CheckpointReader, Place, read_tensors
from pipeline.checkpoint.stored_block import StoredBlock
from pipeline.checkpoint.stream import BlockStream
from pipeline.storage.content import ContentStore

Ahead = tuple[int, StoredBlock | None]  # a block, as the checkpoint has it or as it was stored after pruning
Made = TypeVar("Made")


class BlockReader:
    """Reads blocks. `thread` reads ahead. `pinned`: into page-locked memory, for a GPU."""

    def __init__(
        self,
        content: ContentStore,
        reader: CheckpointReader,
        stream: BlockStream,
        thread: ThreadPoolExecutor,
        *,
        pinned: bool,
    ) -> None:
        self._content = content
        self._reader = reader
        self._stream = stream
        self._thread = thread
        self._pinned = pinned
        self._ahead: Ahead | None = None
        self._reading: Future[dict[str, Tensor]] | None = None

    def expect(self, ahead: Ahead) -> None:
        """Begins to read the block that `read` will be asked for next. An error is raised there."""
        self._forget()
        self._ahead = ahead
        self._reading = self._thread.submit(self._read, ahead)

    def read(self, block: int, stored: StoredBlock | None) -> dict[str, Tensor]:
        """Returns the verified tensors of a block by their names inside it. Raises CorruptObject."""
        if self._reading is None or self._ahead != (block, stored):
            self._forget()
            return self._read((block, stored))
        reading, self._reading = self._reading, None
        return reading.result()

    def _forget(self) -> None:
        if self._reading is not None:
            self._reading.cancel()
        self._ahead = self._reading = None

    def _read(self, wanted: Ahead) -> dict[str, Tensor]:
        block, stored = wanted
        names = self._stream.block_tensors(block)
        if stored is None:
            places = {name: self._reader.place(disk) for name, disk in names.items()}
        else:
            places = {name: _stored_place(stored, disk) for name, disk in names.items()}
        return read_tensors(self._content, places, pinned=self._pinned)


class Storing(Generic[Made]):
    """What a thread is storing, by a name that its owner gives it."""

    def __init__(self, thread: ThreadPoolExecutor) -> None:
        self._thread = thread
        self._underway: dict[Hashable, Future[Made]] = {}

    def begin(self, name: Hashable, put: Callable[[], Made]) -> None:
        """Begins to store something."""
        self._underway[name] = self._thread.submit(put)

    def made(self, name: Hashable) -> Made:
        """Waits until it is stored, and returns its record. Raises the error of storing it."""
        return self._underway.pop(name).result()


def _stored_place(stored: StoredBlock, disk: str) -> Place:
    return Place(disk, stored.weights.file.blob, stored.weights.tensors[disk])
