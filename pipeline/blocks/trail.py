"""The finished blocks of a loop: recorded one by one, and found again by a later attempt.

A block is recorded when its bytes are stored, which happens while the next block is at work; so the loop adds
it after the next block. A thread writes the records, in the order of the blocks.
"""

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Generic, NoReturn, TypeVar

from pydantic import BaseModel

from pipeline.blocks.beside import Ahead
from pipeline.blocks.crew import Crew
from pipeline.blocks.snapshots import Snapshots
from pipeline.blocks.steps import Note, Progress
from pipeline.checkpoint.stored_block import StoredBlock
from pipeline.errors import MachineLeaves
from pipeline.storage.progress import StageProgress

Part = TypeVar("Part", bound=BaseModel)


class Trail(Generic[Part]):
    """`done` holds the records of the finished blocks, from block 0 on. Earlier attempts have finished those
    before `found`. The crew's activations enter block `reached`, which may lie before `found`.

    `progress` is the store of records and activations; without it nothing is recorded and nothing is found.
    `whole` tells whether everything that a record names still exists. If `samples` is 0, there are no
    activations to store.
    """

    def __init__(
        self,
        crew: Crew,
        progress: StageProgress | None,
        kind: type[Part],
        *,
        whole: Callable[[Part], bool],
        samples: int,
    ) -> None:
        self._crew = crew
        self._progress = progress
        self._recorder = ThreadPoolExecutor(max_workers=1, thread_name_prefix="records")
        self._recording: deque[Future[None]] = deque()
        self._snapshots = None
        if progress is not None and samples:
            self._snapshots = Snapshots(crew, progress, self._recorder)
        self.done = [] if progress is None else progress.finished_blocks(kind, whole=whole)
        self.found = self.reached = len(self.done)
        self._told = 0

    def __enter__(self) -> "Trail[Part]":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Waits for the recorder, so that it no longer writes when a failed stage is tried again."""
        self._recorder.shutdown(wait=True)

    def resume(self) -> Iterator[Note]:
        """Restores the crew's activations as far as they are stored, and reports where the loop continues."""
        if not self.done:
            return
        if self._snapshots is not None and self.found < self._crew.blocks:
            self.reached = self._snapshots.restore(at_most=self.found)
        yield Note(
            f"{self.found} of {self._crew.blocks} blocks are stored already; going on from block "
            f"{self.reached}"
        )

    def ahead(self, block: int) -> Ahead | None:
        """Returns what the loop loads first after it is done with `block`."""
        after = block + 1
        if after == self._crew.blocks:
            return None
        stored = self.done[after] if after < self.found else None
        return after, stored if isinstance(stored, StoredBlock) else None

    def add(self, stored: Part) -> None:
        """Has the next finished block recorded, whose bytes are all stored."""
        if self._progress is not None:
            self._recording.append(self._recorder.submit(self._progress.put_block, len(self.done), stored))
        self.done.append(stored)

    def enter(self, block: int) -> None:
        """Is called when all calls were made after which the activations enter `block`. Takes a snapshot of
        them if one is due."""
        if self._snapshots is not None:
            self._snapshots.enter(block)

    def must_leave(self, block: int) -> bool:
        """Tells whether the loop has to leave its workers before `block`, because the machine of one of them
        is about to be taken away."""
        return self._progress is not None and block < self._crew.blocks and self._crew.leaving()

    def leave(self, block: int) -> NoReturn:
        """Stores the activations that enter `block`, when all blocks before it were added, and ends the loop.
        Whoever goes on runs no block again.

        Raises MachineLeaves.
        """
        for recording in self._recording:
            recording.result()
        if self._snapshots is not None:
            self._snapshots.take(block)
        raise MachineLeaves(
            f"the machine of a worker is about to be taken away; {block} of {self._crew.blocks} blocks are "
            f"stored, and the stage goes on from there elsewhere"
        )

    def told(self) -> Iterator[Progress]:
        """Reports the blocks that were recorded since the last call. Raises the error of recording one."""
        while self._recording and self._recording[0].done():
            self._recording.popleft().result()
        for block in range(self._told, len(self.done) - len(self._recording)):
            self._told = block + 1
            yield Progress(block + 1, self._crew.blocks)

    def end(self) -> Iterator[Progress]:
        """Waits until all blocks are recorded, and deletes the stored activations."""
        for recording in self._recording:
            recording.result()
        yield from self.told()
        if self._snapshots is not None:
            self._snapshots.forget()
