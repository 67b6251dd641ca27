"""Finished parts of a stage that is still running, so that a later attempt continues after them.

They lie below `progress/<stage key>/` and belong to that stage alone.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from pydantic import BaseModel

from pipeline.storage.content import ContentStore

Part = TypeVar("Part", bound=BaseModel)


def progress_key(key: str, part: str) -> str:
    """Returns the storage key of a finished part of the stage with this key."""
    return f"progress/{key}/{part}.json"


@dataclass(frozen=True)
class StageProgress:
    """The finished parts of one stage. `key` is the stage's key. `snapshot_seconds`: from one snapshot of its
    activations to the next; 0 takes one after every block."""

    content: ContentStore
    key: str
    snapshot_seconds: float = 60

    def put_block(self, block: int, stored: BaseModel) -> None:
        """Records that a block is finished."""
        self.content.put_model(self._block(block), stored)

    def finished_blocks(self, kind: type[Part], *, whole: Callable[[Part], bool]) -> list[Part]:
        """Returns the blocks that earlier attempts finished, from block 0 on without a gap. `whole` tells
        whether everything that a record names is still in storage; the list ends before the first block for
        which it is not."""
        found: list[Part] = []
        while (block := self.content.find_model(self._block(len(found)), kind)) is not None:
            if not whole(block):
                break
            found.append(block)
        return found

    def _block(self, block: int) -> str:
        return progress_key(self.key, f"block-{block:05d}")
