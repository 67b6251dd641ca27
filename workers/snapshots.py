"""Activations between two blocks, stored: a later attempt goes on from them instead of running all blocks
again.

They lie beside the stage's finished blocks and are its own: the next ones take their place, and the stage's
end deletes the last.
"""

from pipeline.ledger import progress_key
from pipeline.tensor.activations import StoredActivations, StoredPart
from workers.gang import Gang
from workers.stages.base import StageContext


class Snapshots:
    """Of one stage on a gang."""

    def __init__(self, workers: Gang, context: StageContext) -> None:
        self._workers = workers
        self._content = context.content
        self._key = context.key
        self._stored: StoredActivations | None = None

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

    def save(self, block: int) -> None:
        """Store what enters a block, and forget what was stored before."""
        prefix = f"progress/{self._key}/activations-{block:05d}"
        parts: dict[str, list[StoredPart]] = {}
        for share in self._workers.all("store_activations", prefix, label=f"block {block}"):
            for name, part in share.items():
                parts.setdefault(name, []).append(part)
        stored = StoredActivations(block=block, parts={name: tuple(one) for name, one in parts.items()})
        self._content.put_model(self._record(block), stored)
        before, self._stored = self._stored, stored
        self._delete(before)

    def forget(self) -> None:
        """The stage is done."""
        self._stored = None
        for found in self._content.store.list(f"progress/{self._key}/activations-"):
            self._content.store.delete(found.key)

    def _delete(self, stored: StoredActivations | None) -> None:
        if stored is None:
            return
        for key in (self._record(stored.block), *stored.keys):
            self._content.store.delete(key)

    def _record(self, block: int) -> str:
        return progress_key(self._key, f"activations-{block:05d}")
