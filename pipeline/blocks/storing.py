"""What a worker stores: blocks, statistics, the tensors outside the blocks, and snapshots of its activations.

Threads do it while the worker goes on. A call begins to store something, and another one returns its record
when it is stored, or raises the error of storing it.
"""

from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial

from pipeline.artifacts.artifact import FileRef
from pipeline.artifacts.curve import BlockFit
from pipeline.blocks.beside import Storing
from pipeline.blocks.block import Measured
from pipeline.blocks.measured import MeasuredWalk
from pipeline.blocks.snapshot_copy import SnapshotCopy, StoredPart
from pipeline.checkpoint.assemble import StoredTensors
from pipeline.checkpoint.statistics import put_hessian, put_statistics
from pipeline.checkpoint.stored_block import StoredBlock
from pipeline.checkpoint.writer import copy_tensors
from pipeline.tensor.statistics import hessian


class StoringWalk(MeasuredWalk):
    """See the module's docstring, MeasuredWalk and Walk."""

    def _prepare(self) -> None:
        super()._prepare()
        self._blocks_stored: Storing[StoredBlock] = Storing(self._thread)
        self._statistics_stored: Storing[FileRef] = Storing(self._thread)
        self._hessians_stored: Storing[FileRef] = Storing(self._thread)
        self._aside = ThreadPoolExecutor(2, thread_name_prefix="aside")  # the outer tensors, and one snapshot
        self._outer: Future[StoredTensors] | None = None
        self._snapshot: Future[dict[str, StoredPart]] | None = None

    def store(self, measured: Measured | None, fit: BlockFit | None = None) -> None:
        """Begins to write the block with its new weights and keep tensors. `measured`: the statistics of an
        earlier walk by which it was pruned, if it was not by those of this one."""
        self._blocks_stored.begin(self.work.block, self.work.storing(self._known(measured), fit))

    def stored(self, block: int) -> StoredBlock:
        """Returns the record of a block that `store` began to write."""
        return self._blocks_stored.made(block)

    def store_statistics(self, similarity: float | None = None) -> None:
        """Begins to write the statistics of the loaded block, without Hessians."""
        found = [one for one in self.statistics if one is not None]
        put = partial(put_statistics, self._content, self.work.block, found, similarity, gains=self._gains)
        self._statistics_stored.begin(self.work.block, put)

    def stored_statistics(self, block: int) -> FileRef:
        """Returns the file that `store_statistics` began to write."""
        return self._statistics_stored.made(block)

    def store_hessian(self, group: int) -> None:
        """Begins to write the Hessian of a group of the loaded block, whose gram this worker took."""
        block, samples = self.work.block, self._statistics[group].samples
        found = hessian(self._totals.pop(group), samples=samples).cpu()
        self._hessians_stored.begin((block, group), partial(put_hessian, self._content, block, group, found))

    def stored_hessian(self, block: int, group: int) -> FileRef:
        """Returns the file that `store_hessian` began to write."""
        return self._hessians_stored.made((block, group))

    def begin_outer(self) -> None:
        """Begins to write all tensors outside the blocks, unchanged, with one chunk in memory at a time."""
        names = self._stream.outer_tensors()
        put = partial(copy_tensors, self._content, "outer.safetensors", self._reader, names)
        self._outer = self._aside.submit(lambda: StoredTensors.of(put()))

    def outer(self) -> StoredTensors:
        """Returns the record of these tensors when they are written. Raises the error of writing them."""
        assert self._outer is not None, "begin_outer() comes first"
        return self._outer.result()

    def begin_snapshot(self, key: str) -> None:
        """Begins to store all activations as they are now, by name, as objects whose keys begin with `key`.
        The walk goes on meanwhile."""
        copies = {name: one.copy(first=self._first) for name, one in self._activations.items()}
        self._snapshot = self._aside.submit(self._stored, copies, key)

    def snapshot(self, *, wait: bool = False) -> dict[str, StoredPart] | None:
        """Returns what `begin_snapshot` has stored, or None if it is not done yet; with `wait`, it will be.
        Raises the error of storing it."""
        assert self._snapshot is not None, "begin_snapshot(key) comes first"
        return self._snapshot.result() if wait or self._snapshot.done() else None

    def end_snapshot(self) -> None:
        """Waits until nothing is being stored any more; what was stored is of no interest, nor its error."""
        if self._snapshot is not None:
            self._snapshot.exception()
            self._snapshot = None

    def _stored(self, copies: Mapping[str, SnapshotCopy], key: str) -> dict[str, StoredPart]:
        """Makes all copies before it sends the first, because the walk waits for copies alone."""
        try:
            for copy in copies.values():
                copy.make()
        finally:
            for copy in copies.values():
                copy.end()
        stored = {
            name: copy.store(self._content.store, f"{key}-{name}-{self._first:06d}.bin")
            for name, copy in copies.items()
        }
        return {name: part for name, part in stored.items() if part is not None}
