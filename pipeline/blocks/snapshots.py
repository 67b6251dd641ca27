"""Stores the activations between two blocks, so that a later attempt continues from them instead of running
all blocks again.

They lie beside the stage's finished blocks and belong to the stage alone: each snapshot replaces the one
before, and the end of the stage deletes the last. One is taken when enough seconds have passed. Workers store
it while the walk goes on, and are asked at later blocks whether they are done; then its record is written.
"""

import re
import time
import uuid
from collections.abc import Sequence
from concurrent.futures import Executor, Future

from pipeline.blocks.activations import StoredActivations
from pipeline.blocks.crew import Crew, Pending
from pipeline.blocks.snapshot_copy import StoredPart
from pipeline.blocks.worker import SweepWorker
from pipeline.storage.progress import StageProgress, progress_key

Parts = dict[str, StoredPart]


class Snapshots:
    """The snapshots of one stage on a crew. `recorder` is a single thread, which writes the records of
    finished blocks too: a snapshot is recorded after all blocks that lie before it."""

    def __init__(self, crew: Crew, progress: StageProgress, recorder: Executor) -> None:
        self._crew = crew
        self._content = progress.content
        self._key = progress.key
        self._seconds = progress.snapshot_seconds
        self._recorder = recorder
        self._recording: Future[None] | None = None
        self._stored: StoredActivations | None = None
        self._taken_at = time.monotonic()
        self._underway: int | None = None  # the block that a snapshot enters which is being stored
        self._asked: Sequence[Pending[Parts | None]] = ()

    def restore(self, *, at_most: int) -> int:
        """Restores the latest snapshot that enters block `at_most` or an earlier one. Returns that block, or
        0 without a snapshot."""
        names = (found.key for found in self._content.store.list(self._prefix))
        found = [int(match[1]) for name in names if (match := re.search(r"/activations-(\d+)\.json$", name))]
        for block in sorted((one for one in found if one <= at_most), reverse=True):
            stored = self._content.find_model(self._record(block), StoredActivations)
            if stored is None or not all(self._content.store.stat(key) for key in stored.keys):
                continue
            self._stored = stored
            self._crew.label = f"block {block}"
            self._crew.all(SweepWorker.restore_activations, stored)
            return block
        return 0

    def enter(self, block: int) -> None:
        """Is called when all calls were made after which the activations enter `block`. Takes a snapshot of
        them if it is due and the last one is stored."""
        every_block = self._seconds == 0
        if self._underway is not None and (every_block or self._asked):
            self._look(wait=every_block)
        elif self._underway is not None:
            self._asked = self._ask(wait=False)
        due = time.monotonic() - self._taken_at >= self._seconds
        if due and self._underway is None and block < self._crew.blocks:
            self._begin(block)

    def take(self, block: int) -> None:
        """Takes a snapshot of the activations that enter `block`, and returns when it is recorded."""
        self._finish()
        self._begin(block)
        self._finish()
        self._settle()

    def forget(self) -> None:
        """Deletes all snapshots when the stage is done. Raises the error of recording one."""
        self._crew.all(SweepWorker.end_snapshot)
        self._settle()
        self._stored = self._underway = None
        for found in self._content.store.list(self._prefix):
            self._content.store.delete(found.key)

    def _begin(self, block: int) -> None:
        self._underway, self._taken_at = block, time.monotonic()
        # A name of its own: an attempt that is believed dead may still be writing.
        self._crew.tell(SweepWorker.begin_snapshot, f"{self._prefix}{block:05d}-{uuid.uuid4().hex[:8]}")

    def _finish(self) -> None:
        """Waits until the snapshot is stored that is underway, if there is one."""
        while self._underway is not None:
            self._look(wait=True)

    def _ask(self, *, wait: bool) -> list[Pending[Parts | None]]:
        return [self._crew.ask(i, SweepWorker.snapshot, wait=wait) for i in range(self._crew.size)]

    def _look(self, *, wait: bool) -> None:
        """Has a snapshot recorded if all workers have stored their parts; otherwise asks again."""
        assert self._underway is not None
        found = self._crew.wait(self._asked or self._ask(wait=wait))
        self._asked = ()
        shares = [one for one in found if one is not None]
        if len(shares) < len(found):
            self._asked = self._ask(wait=wait)
            return
        self._settle()
        self._recording = self._recorder.submit(self._record_taken, self._underway, shares)
        self._underway = None

    def _settle(self) -> None:
        """Waits until the last snapshot is recorded; raises the error of recording it."""
        if self._recording is not None:
            recording, self._recording = self._recording, None
            recording.result()

    def _record_taken(self, block: int, shares: Sequence[Parts]) -> None:
        parts: dict[str, list[StoredPart]] = {}
        for share in shares:
            for name, part in share.items():
                parts.setdefault(name, []).append(part)
        stored = StoredActivations(block=block, parts={name: tuple(one) for name, one in parts.items()})
        self._content.put_model(self._record(block), stored)
        before, self._stored = self._stored, stored
        if before is not None:
            for key in (self._record(before.block), *before.keys):
                self._content.store.delete(key)

    @property
    def _prefix(self) -> str:
        return f"progress/{self._key}/activations-"

    def _record(self, block: int) -> str:
        return progress_key(self._key, f"activations-{block:05d}")
