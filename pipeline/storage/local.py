"""A store in a directory: one file per object, written to a temporary name and renamed into place."""

import contextlib
import errno
import os
import stat
import time
import uuid
from collections.abc import Iterable, Iterator
from io import BufferedReader
from pathlib import Path

from pipeline.errors import CorruptObject, ObjectNotFound, StorageError, StorageUnavailable
from pipeline.storage.base import (
    CHUNK_BYTES,
    INCOMING,
    Chunk,
    ObjectInfo,
    check_key,
    check_prefix,
    check_range,
    is_key,
)

ORDER = "/order.json"  # of an attempt; it has the token of its driver, which is not for others on the machine
ABANDONED_SECONDS = 2 * 24 * 3600  # a living writer touches its file with every chunk
ABSENT = (FileNotFoundError, NotADirectoryError, IsADirectoryError)
UNAVAILABLE = (errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EHOSTDOWN, errno.ENOTCONN)


class LocalStore:
    """Objects under `root`, which is created at the first put and must be one file system."""

    def __init__(self, root: Path) -> None:
        self.root = Path(root).absolute()
        self._swept = False

    def __repr__(self) -> str:
        return f"LocalStore({str(self.root)!r})"

    def put(self, key: str, chunks: Iterable[Chunk]) -> None:
        """See Store. The file is on disk before it gets its name; a killed writer leaves only files in
        `.incoming`."""
        target = self.root / check_key(key)
        with self._translated(key):
            written = self._incoming()
        try:
            self._write(written, chunks, key=key)
            with self._translated(key):
                _make_directory(target.parent)
                if key.endswith(ORDER):
                    written.chmod(stat.S_IMODE(written.stat().st_mode) & ~stat.S_IRWXO)
                os.replace(written, target)
                _flush_directory(target.parent)
        finally:
            with contextlib.suppress(OSError):
                written.unlink(missing_ok=True)

    def get(self, key: str, *, start: int = 0, length: int | None = None) -> Iterator[bytes]:
        """See Store."""
        check_range(check_key(key), start=start, length=length)
        return self._read(key, start=start, length=length)

    def stat(self, key: str) -> ObjectInfo | None:
        """See Store. The version is the modification time in nanoseconds."""
        path = self.root / check_key(key)
        with self._translated(key):
            try:
                found = path.stat()
            except ABSENT:
                return None
            return _info(key, found) if stat.S_ISREG(found.st_mode) else None

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """See Store. Links to directories are not followed; files whose names are not keys are skipped."""
        directory = check_prefix(prefix).rpartition("/")[0]
        return self._walk(f"{directory}/" if directory else "", prefix=prefix)

    def delete(self, key: str) -> None:
        """See Store."""
        path = self.root / check_key(key)
        with self._translated(key), contextlib.suppress(*ABSENT):
            path.unlink()

    def probe(self) -> None:
        """Raises StorageError unless objects can be written under the root, which need not exist yet."""
        nearest = self.root
        while not nearest.exists() and nearest != nearest.parent:
            nearest = nearest.parent
        if not nearest.is_dir():
            raise StorageError(f"storage directory {self.root} cannot be made: {nearest} is not a directory")
        if not os.access(nearest, os.R_OK | os.W_OK | os.X_OK):
            raise StorageError(f"storage directory {self.root} cannot be written: no permission on {nearest}")

    def _write(self, path: Path, chunks: Iterable[Chunk], *, key: str) -> None:
        with self._translated(key):
            file = path.open("xb", buffering=0)
        with file:
            for chunk in chunks:  # outside of `_translated`, so that errors of the source are not translated
                with self._translated(key):
                    rest = memoryview(chunk)
                    while rest:
                        rest = rest[file.write(rest) :]
            with self._translated(key):
                os.fsync(file.fileno())

    def _read(self, key: str, *, start: int, length: int | None) -> Iterator[bytes]:
        with self._open(key) as file:
            size = os.fstat(file.fileno()).st_size
            end = size if length is None else start + length
            if size < max(start, end):
                raise self._truncated(key, max(start, end), size)
            file.seek(start)
            position = start
            while position < end:
                with self._translated(key):
                    chunk = file.read(min(CHUNK_BYTES, end - position))
                if not chunk:
                    raise self._truncated(key, end, position)
                position += len(chunk)
                yield chunk

    def _truncated(self, key: str, expected: int, actual: int) -> CorruptObject:
        return CorruptObject(
            f"{key} in {self.root} is truncated: expected at least {expected} bytes, got {actual}"
        )

    def _open(self, key: str) -> BufferedReader:
        with self._translated(key):
            try:
                return (self.root / key).open("rb")
            except ABSENT:
                raise ObjectNotFound(f"{key} does not exist in {self.root}") from None

    def _walk(self, directory: str, *, prefix: str) -> Iterator[ObjectInfo]:
        """Walks depth first. A directory sorts as `name/`, which is how its keys compare with its
        siblings."""
        with self._translated(directory):
            try:
                entries = list(os.scandir(self.root / directory))
            except ABSENT:
                return
        is_directory = {entry.name: entry.is_dir(follow_symlinks=False) for entry in entries}
        for entry in sorted(entries, key=lambda e: e.name + "/" if is_directory[e.name] else e.name):
            key = directory + entry.name
            if not is_key(key):
                continue
            if is_directory[entry.name]:
                if f"{key}/".startswith(prefix) or prefix.startswith(f"{key}/"):
                    yield from self._walk(f"{key}/", prefix=prefix)
            elif key.startswith(prefix):
                info = self.stat(key)
                if info is not None:  # None if it was deleted since the directory was read
                    yield info

    def _incoming(self) -> Path:
        """Returns a fresh path for a half-written file, on the file system of the root."""
        directory = self.root / INCOMING
        _make_directory(directory)
        if not self._swept:
            remove_abandoned(directory)
            self._swept = True
        return directory / uuid.uuid4().hex

    @contextlib.contextmanager
    def _translated(self, key: str) -> Iterator[None]:
        """Turns the operating system's errors into StorageErrors."""
        try:
            yield
        except OSError as error:
            kind = StorageUnavailable if error.errno in UNAVAILABLE else StorageError
            raise kind(f"{key} in {self.root}: {error.strerror or error}") from error


def _info(key: str, found: os.stat_result) -> ObjectInfo:
    return ObjectInfo(key=key, size=found.st_size, version=str(found.st_mtime_ns))


def _make_directory(path: Path) -> None:
    """Creates a directory with its parents so that it survives a power failure."""
    if path.is_dir():
        return
    if path.parent != path:
        _make_directory(path.parent)
    path.mkdir(exist_ok=True)
    _flush_directory(path.parent)


def _flush_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_abandoned(directory: Path) -> None:
    """Removes old files of killed writers."""
    oldest = time.time() - ABANDONED_SECONDS
    for path in directory.iterdir():
        with contextlib.suppress(OSError):
            if path.stat().st_mtime < oldest:
                path.unlink()
