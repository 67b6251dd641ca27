"""A dumb byte store: five methods, no knowledge of what the bytes mean.

Keys are `/`-separated relative paths of printable ASCII without empty, `.` or `..` parts. A `put` is
visible whole or not at all, also when the writer is killed. Nothing here relies on conditional writes:
content addressing (content.py) makes every repeated write harmless.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

CHUNK_BYTES = 8 * 1024 * 1024


@dataclass(frozen=True)
class ObjectInfo:
    """One stored object: its key, size in bytes, and the store's own version mark (ETag, mtime)."""

    key: str
    size: int
    version: str


class Store(Protocol):
    """What local directories and S3 buckets have in common."""

    def put(self, key: str, chunks: Iterable[bytes]) -> None:
        """Store the concatenated chunks under `key`, replacing what was there, in bounded memory."""
        ...

    def get(self, key: str, *, start: int = 0, length: int | None = None) -> Iterator[bytes]:
        """Stream `length` bytes (to the end when None) from byte `start`.

        Raises ObjectNotFound, and CorruptObject when the object ends before `start + length`.
        """
        ...

    def stat(self, key: str) -> ObjectInfo | None:
        """Size and version of one object; None when it does not exist."""
        ...

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """Objects whose keys start with `prefix`, in ascending key order."""
        ...

    def delete(self, key: str) -> None:
        """Remove one object; removing what is not there is no error."""
        ...


@runtime_checkable
class Presigner(Protocol):
    """A store that can hand out a time-limited direct download address."""

    def presign(self, key: str, *, seconds: int, filename: str) -> str:
        """HTTPS address from which anyone may read `key` for `seconds`."""
        ...
