"""Stores the activations between two blocks, so that a later attempt continues from them instead of running
all blocks again.

They lie beside the stage's finished blocks and belong to the stage alone: each snapshot replaces the one
before, and the end of the stage deletes the last. Workers store them and continue; a thread waits until they
are stored and writes the record.
"""

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType

from pipeline.blocks.activations import StoredActivations, StoredPart
from pipeline.blocks.crew import Crew, Pending
from pipeline.blocks.worker import SweepWorker
from pipeline.storage.progress import StageProgress, progress_key

Taken = tuple[int, list[Pending[dict[str, StoredPart]]]]  # a block, and the parts that each worker stores


class Snapshots:
    """The snapshots of one stage on a crew."""

    def __init__(self, crew: Crew, progress: StageProgress) -> None:
        self._crew = crew
        self._content = progress.content
        self._key = progress.key
        self._stored: StoredActivations | None = None
        self._recorder = ThreadPoolExecutor(max_workers=1, thread_name_prefix="snapshots")
        self._recording: Future[None] | None = None

    def __enter__(self) -> "Snapshots":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Waits for the recorder, so that it no longer writes when a failed stage is tried again."""
        self._recorder.shutdown(wait=True)

    def restore(self, *, at_most: int) -> int:
        """Restores the latest snapshot that enters block `at_most` or an earlier one. Returns that block, or
        0 without a snapshot."""
        for block in range(at_most, 0, -1):
            found = self._content.find_model(self._record(block), StoredActivations)
            if found is None or not all(self._content.store.stat(key) for key in found.keys):
                continue
            self._stored = found
            self._crew.label = f"block {block}"
            self._crew.all(SweepWorker.restore_activations, found)
            return block
        return 0

    def take(self, block: int) -> Taken:
        """Makes the workers store the activations that enter `block`, after all their earlier calls."""
        prefix = f"progress/{self._key}/activations-{block:05d}"
        workers = range(self._crew.size)
        return block, [self._crew.ask(i, SweepWorker.store_activations, prefix) for i in workers]

    def keep(self, taken: Taken) -> None:
        """Records a snapshot after the blocks before it are recorded, and deletes the previous snapshot.
        Raises the error of recording the previous one, if there was any."""
        self.settle()
        self._recording = self._recorder.submit(self._record_taken, *taken)

    def settle(self) -> None:
        """Waits until the last kept snapshot is recorded; raises the error of recording it."""
        if self._recording is not None:
            recording, self._recording = self._recording, None
            recording.result()

    def forget(self) -> None:
        """Deletes all snapshots when the stage is done."""
        self.settle()
        self._stored = None
        for found in self._content.store.list(f"progress/{self._key}/activations-"):
            self._content.store.delete(found.key)

    def _record_taken(self, block: int, shares: Sequence[Pending[dict[str, StoredPart]]]) -> None:
        parts: dict[str, list[StoredPart]] = {}
        for share in self._crew.answers(shares):
            for name, part in share.items():
                parts.setdefault(name, []).append(part)
        stored = StoredActivations(block=block, parts={name: tuple(one) for name, one in parts.items()})
        self._content.put_model(self._record(block), stored)
        before, self._stored = self._stored, stored
        self._delete(before)

    def _delete(self, stored: StoredActivations | None) -> None:
        if stored is None:
            return
        for key in (self._record(stored.block), *stored.keys):
            self._content.store.delete(key)

    def _record(self, block: int) -> str:
        return progress_key(self._key, f"activations-{block:05d}")
