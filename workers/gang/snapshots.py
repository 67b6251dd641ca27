"""Activations between two blocks, stored: a later attempt goes on from them instead of running all blocks
again.

They lie beside the stage's finished blocks and are its own: the next ones take their place, and the stage's
end deletes the last. Workers store them and go on; a thread waits for that and writes the record.
"""

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Any

import ray

from pipeline.blocks.activations import StoredActivations, StoredPart
from pipeline.job.ledger import progress_key
from workers.gang.gang import Gang
from workers.stages.base import StageContext

Taken = tuple[int, list[Any]]  # a block, and references to what each worker stored


class Snapshots:
    """Of one stage on a gang."""

    def __init__(self, workers: Gang, context: StageContext) -> None:
        self._workers = workers
        self._content = context.content
        self._key = context.key
        self._stored: StoredActivations | None = None
        self._recorder = ThreadPoolExecutor(max_workers=1, thread_name_prefix="snapshots")
        self._recording: Future[None] | None = None

    def __enter__(self) -> "Snapshots":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Nobody writes here any more when a stage that failed is tried again."""
        self._recorder.shutdown(wait=True)

    def restore(self, *, at_most: int) -> int:
        """Go on from the latest that enter block `at_most` or one before it. The block; 0 where there are
        none."""
        for block in range(at_most, 0, -1):
            found = self._content.find_model(self._record(block), StoredActivations)
            if found is None or not all(self._content.store.stat(key) for key in found.keys):
                continue
            self._stored = found
            self._workers.all("restore_activations", found, label=f"block {block}")
            return block
        return 0

    def take(self, block: int) -> Taken:
        """Have the workers store what enters a block, once they have done what they were asked before."""
        prefix = f"progress/{self._key}/activations-{block:05d}"
        workers = range(len(self._workers.actors))
        label = f"block {block}"
        return block, [self._workers.one(i, "store_activations", prefix, label=label) for i in workers]

    def keep(self, taken: Taken) -> None:
        """Record what was taken, now that the blocks before it are recorded, and forget what was stored
        before. Raises what went wrong with the one before."""
        self.settle()
        self._recording = self._recorder.submit(self._record_taken, *taken)

    def settle(self) -> None:
        """Wait until the last one that was kept is recorded; raises what went wrong."""
        if self._recording is not None:
            recording, self._recording = self._recording, None
            recording.result()

    def forget(self) -> None:
        """The stage is done."""
        self.settle()
        self._stored = None
        for found in self._content.store.list(f"progress/{self._key}/activations-"):
            self._content.store.delete(found.key)

    def _record_taken(self, block: int, shares: Sequence[Any]) -> None:
        parts: dict[str, list[StoredPart]] = {}
        for share in ray.get(shares):
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
