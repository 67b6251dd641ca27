"""The finished blocks of a loop: recorded one by one, and found again by a later attempt."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from types import TracebackType
from typing import Generic, TypeVar

from pydantic import BaseModel

from pipeline.blocks.crew import Crew
from pipeline.blocks.snapshots import Snapshots, Taken
from pipeline.blocks.steps import Note
from pipeline.storage.progress import StageProgress

Part = TypeVar("Part", bound=BaseModel)


class Trail(Generic[Part]):
    """`done` holds the records of the finished blocks, from block 0 on; the crew's activations enter block
    `reached`, which may lie before the end of `done`.

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
        self._held = ExitStack()
        self._snapshots = None
        if progress is not None and samples:
            self._snapshots = self._held.enter_context(Snapshots(crew, progress))
        self.done = [] if progress is None else progress.finished_blocks(kind, whole=whole)
        self.reached = len(self.done)

    def __enter__(self) -> "Trail[Part]":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._held.__exit__(kind, error, trace)

    def resume(self) -> Iterator[Note]:
        """Restores the crew's activations as far as they are stored, and reports where the loop continues."""
        if not self.done:
            return
        if self._snapshots is not None and len(self.done) < self._crew.blocks:
            self.reached = self._snapshots.restore(at_most=len(self.done))
        yield Note(
            f"{len(self.done)} of {self._crew.blocks} blocks are stored already; going on from block "
            f"{self.reached}"
        )

    def snapshot(self, block: int) -> Taken | None:
        """Makes the workers store the activations that leave `block`, unless it is the last one."""
        if self._snapshots is None or block + 1 >= self._crew.blocks:
            return None
        return self._snapshots.take(block + 1)

    def add(self, block: int, stored: Part, taken: Taken | None) -> None:
        """Records a finished block, then the activations that leave it."""
        if self._progress is not None:
            self._progress.put_block(block, stored)
        self.done.append(stored)
        if taken is not None and self._snapshots is not None:
            self._snapshots.keep(taken)

    def end(self) -> None:
        """Deletes the stored activations, because all blocks are done."""
        if self._snapshots is not None:
            self._snapshots.forget()
