"""A plain byte store: five methods, no knowledge of what the bytes mean.

Keys are `/`-separated relative paths of printable ASCII without empty, `.` or `..` parts; no key lies below
another (`a` and `a/b`), because a directory cannot be a file. A `put` is visible completely or not at all,
even when the writer is killed. Nothing here relies on conditional writes: content addressing (content.py)
makes every repeated write harmless.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

CHUNK_BYTES = 8 * 1024 * 1024
MAX_KEY_LENGTH = 900  # S3 allows 1024, including the prefix of the store
MAX_PART_LENGTH = 255  # the limit of file systems
Chunk = bytes | memoryview  # what may be stored; a view of tensors saves a copy
INCOMING = ".incoming"  # no key begins with this part: LocalStore keeps half-written files there


@dataclass(frozen=True)
class ObjectInfo:
    """One stored object: its key, size in bytes, and the store's own version mark (ETag, mtime)."""

    key: str
    size: int
    version: str


class Store(Protocol):
    """The interface of local directories and S3 buckets."""

    def put(self, key: str, chunks: Iterable[Chunk]) -> None:
        """Stores the concatenated chunks under `key`, in bounded memory; replaces an existing object."""
        ...

    def get(self, key: str, *, start: int = 0, length: int | None = None) -> Iterator[bytes]:
        """Streams `length` bytes (to the end when None) from byte `start`.

        Raises ObjectNotFound, and CorruptObject when the object ends before `start + length`; both on the
        first `next`, because nothing is opened before it.
        """
        ...

    def stat(self, key: str) -> ObjectInfo | None:
        """Returns the size and version of one object; None when it does not exist."""
        ...

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """Yields the objects whose keys start with `prefix`, in ascending key order."""
        ...

    def delete(self, key: str) -> None:
        """Removes one object; removing a missing object is no error."""
        ...


@runtime_checkable
class Presigner(Protocol):
    """A store that can issue a time-limited direct download address."""

    def presign(self, key: str, *, seconds: int, filename: str) -> str:
        """Returns an HTTPS address from which anyone may read `key` for `seconds`."""
        ...


@runtime_checkable
class Prober(Protocol):
    """A store that can check within seconds whether it is usable."""

    def probe(self) -> None:
        """Raises StorageUnavailable or StorageError when puts and gets would not work."""
        ...


def check_key(key: str) -> str:
    """Returns the key itself; raises ValueError when it could leave the store or some stores could not hold
    it."""
    problem = _problem(key)
    if problem is not None:
        raise ValueError(f"storage key {key!r} {problem}")
    return key


def is_key(text: str) -> bool:
    """Tells whether `check_key` accepts the text."""
    return _problem(text) is None


def check_prefix(prefix: str) -> str:
    """Returns the prefix itself; raises ValueError when no key could start with it. Its last part may be
    unfinished."""
    directory, slash, last = prefix.rpartition("/")
    problem = _problem(directory) if slash else None
    if problem is None and not _is_printable(last):
        problem = "must be printable ASCII"
    if problem is not None:
        raise ValueError(f"storage prefix {prefix!r} {problem}")
    return prefix


def check_range(key: str, *, start: int, length: int | None) -> None:
    """Raises ValueError when a range is negative."""
    if start < 0 or (length is not None and length < 0):
        raise ValueError(f"range of {key!r} must not be negative, got start={start} length={length}")


def _problem(key: str) -> str | None:
    """Returns the reason why no store accepts this key, as the end of a sentence, or None."""
    if not key or len(key) > MAX_KEY_LENGTH:
        return f"must have 1 to {MAX_KEY_LENGTH} characters, got {len(key)}"
    if not _is_printable(key):
        return "must be printable ASCII"
    parts = key.split("/")
    if any(part in ("", ".", "..") for part in parts):
        return "must be a relative path without empty, '.' or '..' parts"
    if any(len(part) > MAX_PART_LENGTH for part in parts):
        return f"has a part of more than {MAX_PART_LENGTH} characters"
    if parts[0] == INCOMING:
        return f"must not begin with {INCOMING}/, which is reserved"
    return None


def _is_printable(text: str) -> bool:
    return text.isascii() and (not text or text.isprintable())
