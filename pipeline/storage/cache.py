"""A cache of verified bytes on a node's own disk, shared by all of its processes, in front of a remote store.

Bytes are found by their SHA-256, whether they are a whole blob or the range of one tensor:

<directory>/held/<sha256>       one entry, complete and verified when it got its name
<directory>/incoming/           entries that are being fetched, or whose process was killed
<directory>/turns/<two digits>  locks: of several processes that miss the same bytes, one fetches them

An entry is verified again whenever it is opened, so that a damaged one is never used.
"""

import contextlib
import fcntl
import hashlib
import logging
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

from pipeline.storage.base import CHUNK_BYTES
from pipeline.storage.local import remove_abandoned

Fetch = Callable[[], Iterator[bytes]]

log = logging.getLogger(__name__)


class _DiskError(Exception):
    """The cache's own disk refuses; the bytes are still to be had from the store."""


class NodeCache:
    """At most `limit` bytes of entries in `directory`; those that were not used for longest leave first.
    Entries that are being fetched come on top, one per process and connection."""

    def __init__(self, directory: Path, *, limit: int) -> None:
        self.directory = directory
        self.limit = limit
        self._ready = False

    def __repr__(self) -> str:
        return f"NodeCache({str(self.directory)!r}, limit={self.limit})"

    def stream(self, sha256: str, size: int, fetch: Fetch) -> Iterator[bytes]:
        """Streams the bytes with this digest. If they are not here, `fetch` brings them; it verifies them,
        and raises its error instead of their end when they are wrong. Nothing is opened before the first
        `next`.

        A disk that is full or refuses is no error: the bytes then come from `fetch` alone, with a warning.
        """
        file: IO[bytes] | None = None
        if 0 < size <= self.limit:
            try:
                file = self._find(sha256, size) or self._fetched(sha256, size, fetch)
            except _DiskError as error:
                log.warning("the cache in %s is not used: %s", self.directory, error.__cause__)
        if file is None:
            yield from fetch()
            return
        with file:
            yield from _chunks(file)

    def _find(self, sha256: str, size: int) -> IO[bytes] | None:
        """Opens an entry after it was verified. One that is damaged is removed."""
        path = self._path(sha256)
        with _disk():
            self._prepare()
            try:
                file = path.open("rb")
            except FileNotFoundError:
                return None
            try:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
                if file.tell() != size or digest != sha256:
                    log.warning("the cached file %s was damaged and is fetched again", path)
                    path.unlink(missing_ok=True)
                    file.close()
                    return None
                os.utime(file.fileno())  # the time of its last use
                file.seek(0)
            except OSError:
                file.close()
                raise
        return file

    def _fetched(self, sha256: str, size: int, fetch: Fetch) -> IO[bytes]:
        """Fetches an entry, unless another process has just done so, and opens it."""
        with self._turn(sha256):
            if (found := self._find(sha256, size)) is not None:
                return found
            with _disk():
                descriptor, name = tempfile.mkstemp(dir=self.directory / "incoming")
            file = os.fdopen(descriptor, "w+b")
            try:
                for chunk in fetch():  # outside of `_disk`: its errors are the store's
                    with _disk():
                        file.write(chunk)
                with _disk():
                    file.flush()
                    self._enter(Path(name), sha256, size)
                    file.seek(0)
            except BaseException:
                with contextlib.suppress(OSError):
                    file.close()
                    os.unlink(name)
                raise
        return file

    def _enter(self, written: Path, sha256: str, size: int) -> None:
        """Makes room for an entry and gives it its name, one process at a time."""
        held = self.directory / "held"
        with _locked(self.directory / "lock"):
            entries = []
            for entry in os.scandir(held):
                with contextlib.suppress(FileNotFoundError):  # found to be damaged by another process
                    stat = entry.stat()
                    entries.append((stat.st_mtime_ns, entry.path, stat.st_size))
            used = sum(length for *_, length in entries)
            for _, path, length in sorted(entries):
                if used + size <= self.limit:
                    break
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(path)
                used -= length
            os.replace(written, self._path(sha256))

    @contextlib.contextmanager
    def _turn(self, sha256: str) -> Iterator[None]:
        """Keeps other processes from fetching the same bytes. The kernel ends the turn of one that dies."""
        with contextlib.ExitStack() as held:
            with _disk():
                held.enter_context(_locked(self.directory / "turns" / sha256[:2]))
            yield

    def _path(self, sha256: str) -> Path:
        return self.directory / "held" / sha256

    def _prepare(self) -> None:
        if self._ready:
            return
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        if self.directory.stat().st_uid != os.geteuid():  # its owner could change bytes after their check
            raise PermissionError(f"{self.directory} belongs to another user")
        for name in ("held", "incoming", "turns"):
            (self.directory / name).mkdir(exist_ok=True)
        remove_abandoned(self.directory / "incoming")
        self._ready = True


@contextlib.contextmanager
def _disk() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise _DiskError from error


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _chunks(file: IO[bytes]) -> Iterator[bytes]:
    while chunk := file.read(CHUNK_BYTES):
        yield chunk
