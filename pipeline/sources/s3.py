"""`s3:` sources: an object, or the objects directly below a prefix."""

import contextlib
from collections.abc import Iterator

from pipeline.errors import (
    InvalidSpec,
    ObjectNotFound,
    SourceNotAllowed,
    SourceNotFound,
    SourceUnreachable,
    StorageError,
    StorageUnavailable,
)
from pipeline.sources.access import Wanted, counts
from pipeline.sources.pins import Pin, PinnedFile
from pipeline.sources.tags import changed, checked
from pipeline.sources.tree import Directory, ListedFile
from pipeline.storage.base import ObjectInfo
from pipeline.storage.options import S3Options
from pipeline.storage.s3 import S3Store
from pipeline.storage.s3_answers import REFUSED


class S3Source:
    """`location` is `bucket/key`. An object with exactly that key takes precedence over objects below it."""

    def __init__(self, location: str, options: S3Options | None) -> None:
        self.uri = f"s3://{location}"
        bucket, _, key = location.partition("/")
        directory, _, self.name = key.rpartition("/")
        self._folders: tuple[str, ...] | None = None
        try:
            self.store = S3Store(bucket, directory, options)
        except ValueError as error:
            raise InvalidSpec(f"{self.uri}: {error}") from error

    def names(self) -> tuple[str, ...]:
        """See Source."""
        return tuple(self._objects())

    def folders(self) -> tuple[str, ...]:
        """See Source."""
        if self._folders is None:
            self._objects()
        return self._folders or ()

    def pin(self, wanted: Wanted) -> Pin:
        """See Source. Tags are ETags."""
        files = tuple(
            PinnedFile(path=name, size=found.size, tag=_tag(found))
            for name, found in self._objects().items()
            if wanted(name)
        )
        return Pin(source=self.uri, files=files)

    def read(self, file: PinnedFile) -> Iterator[bytes]:
        """See Source. The ETag is compared before the first chunk and after the last."""
        key, what = self._place(file)
        self._compare(key, file, what=what)
        try:
            yield from checked(self.store.get(key), file, what=what)
        except ObjectNotFound as error:
            raise changed(what, file.tag, "nothing") from error
        self._compare(key, file, what=what)

    def head(self, file: PinnedFile, size: int) -> bytes:
        """See Source. The ETag is compared before the read."""
        key, what = self._place(file)
        self._compare(key, file, what=what)
        try:
            return b"".join(self.store.get(key, length=min(size, file.size)))
        except ObjectNotFound as error:
            raise changed(what, file.tag, "nothing") from error

    def tree(self) -> tuple[Directory, ...]:
        """See Tree. Makes one listing, however many directories there are; versions are ETags."""
        prefix = self._below("")
        with self._refused():
            self.store.probe()
            listed = list(self.store.list(prefix))
        found: dict[str, list[ListedFile]] = {}
        for entry in listed:
            directory, _, name = entry.key.removeprefix(prefix).rpartition("/")
            found.setdefault(directory, []).append(ListedFile(name, entry.size, entry.version))
        return tuple(
            Directory(f"{self.uri}/{directory}" if directory else self.uri, tuple(files))
            for directory, files in sorted(found.items())
        )

    def check(self) -> None:
        """See Tree. Always passes, because only the server knows."""

    def _place(self, file: PinnedFile) -> tuple[str, str]:
        """Returns the key of a pinned file, and its address for errors."""
        if file.path == self.name:
            return self.name, self.uri
        return self._below(file.path), f"{self.uri}/{file.path}"

    def _compare(self, key: str, file: PinnedFile, *, what: str) -> None:
        found = self.store.stat(key)
        if found is None:
            raise changed(what, file.tag, "nothing")
        if found.size != file.size:
            raise changed(what, f"{file.size} bytes", f"{found.size} bytes")
        if _tag(found) != file.tag:
            raise changed(what, file.tag, _tag(found))

    def _objects(self) -> dict[str, ObjectInfo]:
        """Returns the objects by name, in order of names."""
        with self._refused():
            self.store.probe()  # gives up within seconds, while other requests are retried for longer
            single = self.store.stat(self.name) if self.name else None
            if single is not None:
                return {self.name: single}
            prefix = self._below("")
            listed = {found.key.removeprefix(prefix): found for found in self.store.list(prefix)}
        if not any(listed):
            raise SourceNotFound(f"nothing lies at {self.uri}; check bucket and prefix")
        self._folders = tuple(sorted({name.partition("/")[0] for name in listed if "/" in name}))
        return {name: found for name, found in sorted(listed.items()) if counts(name)}

    def _below(self, name: str) -> str:
        return f"{self.name}/{name}" if self.name else name

    @contextlib.contextmanager
    def _refused(self) -> Iterator[None]:
        """Turns a store's errors into errors that the submitter understands."""
        try:
            yield
        except StorageUnavailable as error:
            raise SourceUnreachable(f"{self.uri} cannot be reached: {error.message}") from error
        except StorageError as error:
            raise self._refusal(error) from error
        except ValueError as error:
            raise InvalidSpec(f"{self.uri}: {error}") from error

    def _refusal(self, error: StorageError) -> SourceNotFound | SourceNotAllowed | SourceUnreachable:
        """Returns the error that explains the server's answer to the submitter; the store keeps the answer as
        the cause."""
        answer = getattr(error.__cause__, "response", {})
        code = str(answer.get("Error", {}).get("Code", ""))
        if code == "NoSuchBucket":
            return SourceNotFound(f"the bucket of {self.uri} does not exist: {error.message}")
        if code in REFUSED:
            return SourceNotAllowed(f"{self.uri} may not be read by the service: {error.message}")
        return SourceUnreachable(f"{self.uri} cannot be read: {error.message}")


def _tag(found: ObjectInfo) -> str:
    return f"etag:{found.version}"
