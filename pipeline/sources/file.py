"""`file:` sources: a file, or the files of a directory, below an allowed root."""

import os
import stat
from collections.abc import Iterator
from io import FileIO
from pathlib import Path

from pipeline.errors import SourceChanged, SourceNotAllowed, SourceNotFound
from pipeline.sources.access import ROOTS_SETTING, TEMPLATE_FOLDER, Wanted, counts
from pipeline.sources.pins import Pin, PinnedFile
from pipeline.sources.tags import HASHED_BYTES, changed, checked, sha256_tag
from pipeline.sources.tree import Directory, ListedFile
from pipeline.storage.base import CHUNK_BYTES


class FileSource:
    """Follows links, but their targets must lie below an allowed root as well."""

    def __init__(self, path: Path, roots: tuple[Path, ...]) -> None:
        self.path = path
        self.roots = roots
        self.uri = f"file:{path}"

    def names(self) -> tuple[str, ...]:
        """See Source."""
        real = self._real(self.path)
        try:
            if not real.exists():
                raise SourceNotFound(f"{self.path} does not exist")
            if not real.is_dir():
                return (self.path.name,)
            found = [entry.name for entry in os.scandir(real) if entry.is_file()]
            templates = self._real(self.path / TEMPLATE_FOLDER)
            if templates.is_dir():
                inside = [entry.name for entry in os.scandir(templates) if entry.is_file()]
                found += [f"{TEMPLATE_FOLDER}/{name}" for name in inside]
            return tuple(sorted(found))
        except PermissionError:
            raise SourceNotAllowed(f"{self.path} cannot be listed: the service has no permission") from None

    def folders(self) -> tuple[str, ...]:
        """See Source."""
        real = self._real(self.path)
        try:
            return tuple(sorted(entry.name for entry in os.scandir(real) if entry.is_dir()))
        except NotADirectoryError:
            return ()
        except FileNotFoundError:
            raise SourceNotFound(f"{self.path} does not exist") from None
        except PermissionError:
            raise SourceNotAllowed(f"{self.path} cannot be listed: the service has no permission") from None

    def pin(self, wanted: Wanted) -> Pin:
        """See Source. Files up to 256 MiB are hashed, larger ones are identified by their modification
        time."""
        files = tuple(self._pinned(name) for name in self.names() if wanted(name))
        return Pin(source=self.uri, files=files)

    def read(self, file: PinnedFile) -> Iterator[bytes]:
        """See Source."""
        path = self._locate(file.path)
        with self._open_pinned(path, file) as opened:
            if path == self.path:  # the reader of a text may stop before the end, where the hash is compared
                self._verify(opened, file)
            yield from checked(_chunks(opened), file, what=str(path))
            self._compare(path, opened.fileno(), file)

    def head(self, file: PinnedFile, size: int) -> bytes:
        """See Source."""
        path = self._locate(file.path)
        with self._open_pinned(path, file) as opened:
            return opened.read(size)

    def tree(self) -> tuple[Directory, ...]:
        """See Tree. Links to directories are not followed; versions are modification times."""
        real = self._real(self.path)
        if real.is_dir() and not os.access(real, os.R_OK | os.X_OK):
            raise SourceNotAllowed(f"{self.path} cannot be listed: the service has no permission")
        found = []
        for directory, _, names in os.walk(real):
            below = os.path.relpath(directory, real)
            files = tuple(file for name in sorted(names) if (file := _listed(directory, name)) is not None)
            if files and below.isprintable():  # a name that is not printable has no URI
                found.append(Directory(self.uri if below == "." else f"{self.uri}/{below}", files))
        return tuple(sorted(found, key=lambda one: one.uri))

    def check(self) -> None:
        """See Tree."""
        self._real(self.path)

    def _verify(self, opened: FileIO, file: PinnedFile) -> None:
        """Raises SourceChanged unless the content is the pinned one; this reads the file an extra time."""
        if file.tag.startswith("sha256:"):
            for _ in checked(_chunks(opened), file, what=str(self.path)):
                pass
            opened.seek(0)

    def _pinned(self, name: str) -> PinnedFile:
        path = self._locate(name)
        with self._open(path) as opened:
            found = os.fstat(opened.fileno())
            if found.st_size > HASHED_BYTES:
                return PinnedFile(path=name, size=found.st_size, tag=f"stat:{found.st_mtime_ns}")
            file = PinnedFile(path=name, size=found.st_size, tag=sha256_tag(_chunks(opened)))
            after = os.fstat(opened.fileno())
        if (after.st_size, after.st_mtime_ns) != (found.st_size, found.st_mtime_ns):
            raise SourceChanged(f"{path} is being written; submit the job again when it is finished")
        return file

    def _open_pinned(self, path: Path, file: PinnedFile) -> FileIO:
        """Opens a file that has the size, and if that is its tag the time, of the pinned one."""
        try:
            opened = self._open(path)
        except SourceNotFound as error:
            raise changed(str(path), f"{file.size} bytes", "nothing") from error
        try:
            self._compare(path, opened.fileno(), file)
        except SourceChanged:
            opened.close()
            raise
        return opened

    def _compare(self, path: Path, descriptor: int, file: PinnedFile) -> None:
        found = os.fstat(descriptor)
        if found.st_size != file.size:
            raise changed(str(path), f"{file.size} bytes", f"{found.st_size} bytes")
        tag = f"stat:{found.st_mtime_ns}"
        if file.tag.startswith("stat:") and tag != file.tag:
            raise changed(str(path), file.tag, tag)

    def _locate(self, name: str) -> Path:
        """Returns the path of a file of this source: the source's own path when it is one file."""
        if not counts(name) or name.rpartition(os.sep)[2] in (".", ".."):
            raise SourceNotAllowed(f"{name!r} is not the name of a file of {self.path}")
        return self.path if self.path.name == name and not self.path.is_dir() else self.path / name

    def _open(self, path: Path) -> FileIO:
        """Opens the file at the end of all links, unless it is outside of the roots or not an ordinary
        file."""
        real = self._real(path)
        try:
            # NOFOLLOW refuses a link created after `_real`. NONBLOCK: a pipe would wait for its writer.
            descriptor = os.open(real, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except (FileNotFoundError, NotADirectoryError):
            raise SourceNotFound(f"{path} does not exist") from None
        except OSError as error:
            raise SourceNotAllowed(f"{path} cannot be read by the service: {error.strerror}") from None
        opened = FileIO(descriptor)
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            opened.close()
            raise SourceNotFound(f"{path} is not a file")
        return opened

    def _real(self, path: Path) -> Path:
        """Returns the path without links. It is checked before any answer reveals whether it exists."""
        real = Path(os.path.realpath(path))
        if any(real.is_relative_to(os.path.realpath(root)) for root in self.roots):
            return real
        if not self.roots:
            raise SourceNotAllowed(
                f"file: sources are off on this service; set {ROOTS_SETTING} to the directories that may "
                f"be read"
            )
        roots = ", ".join(str(root) for root in self.roots)
        raise SourceNotAllowed(f"{path} does not lie below an allowed root ({roots}); see {ROOTS_SETTING}")


def _listed(directory: str, name: str) -> ListedFile | None:
    """Returns a file as its directory lists it; None if it is no file, was removed, or has no printable
    name."""
    try:
        found = os.stat(os.path.join(directory, name))
    except OSError:
        return None
    if not stat.S_ISREG(found.st_mode) or not name.isprintable():
        return None
    return ListedFile(name, found.st_size, str(found.st_mtime_ns))


def _chunks(file: FileIO) -> Iterator[bytes]:
    while chunk := file.read(CHUNK_BYTES):
        yield chunk
