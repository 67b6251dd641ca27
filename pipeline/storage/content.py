"""Content addressing on top of any store: a blob's key is its SHA-256, so that every put may be repeated.

Blobs are verified whenever they are read completely. Records are small JSON documents under keys chosen by
their callers; each contains the digest of its body, so that changes to them are detected too.
"""

import hashlib
import json
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, Annotated, TypeVar

from pydantic import BaseModel, Field, ValidationError

from pipeline.canonical import Frozen, canonical_json, digest_of
from pipeline.errors import CorruptObject, ObjectNotFound, SourceChanged
from pipeline.storage.base import CHUNK_BYTES, Chunk, Store
from pipeline.storage.cache import NodeCache

Model = TypeVar("Model", bound=BaseModel)


class BlobRef(Frozen):
    """The content of a blob: the lower-case hexadecimal SHA-256 of its bytes, and their number."""

    digest: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    size: Annotated[int, Field(ge=0)]


class ContentStore:
    """Blobs and records in a store. Streams of unknown length are spooled in `spool_dir`. `cache` keeps what
    was read from a remote store; `connections` says how many reads at once are worth while."""

    def __init__(
        self,
        store: Store,
        *,
        spool_dir: Path | None = None,
        cache: NodeCache | None = None,
        connections: int = 1,
    ) -> None:
        self.store = store
        self.connections = connections
        self._spool_dir = None if spool_dir is None else str(spool_dir)
        self.cache = cache

    def __repr__(self) -> str:
        return f"ContentStore({self.store!r})"

    def key(self, ref: BlobRef) -> str:
        """Returns a blob's key in the store."""
        return f"blobs/sha256/{ref.digest[:2]}/{ref.digest}"

    def has(self, ref: BlobRef) -> bool:
        """Tells whether an object of the right size exists there; its content is checked only when it is
        read."""
        found = self.store.stat(self.key(ref))
        return found is not None and found.size == ref.size

    def put_bytes(self, data: bytes) -> BlobRef:
        """Stores a blob that is in memory, unless it exists."""
        return self.put_repeatable(lambda: [data])

    def put_file(self, path: Path) -> BlobRef:
        """Stores a file, unless it exists. Reads it twice; raises SourceChanged when the reads differ."""
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            ref = BlobRef(digest=digest, size=file.tell())
            if not self.has(ref):
                file.seek(0)
                self.store.put(self.key(ref), _unchanged(_chunks(file), ref, path=path))
        return ref

    def put_stream(self, chunks: Iterable[Chunk]) -> BlobRef:
        """Stores a stream, unless it exists. It waits in a temporary file until its digest is known."""
        digest, size = hashlib.sha256(), 0
        with tempfile.SpooledTemporaryFile(max_size=CHUNK_BYTES, dir=self._spool_dir) as spool:
            for chunk in chunks:
                digest.update(chunk)
                size += len(chunk)
                spool.write(chunk)
            spool.seek(0)
            ref = BlobRef(digest=digest.hexdigest(), size=size)
            if not self.has(ref):
                self.store.put(self.key(ref), _chunks(spool))
        return ref

    def put_repeatable(self, chunks: Callable[[], Iterable[Chunk]]) -> BlobRef:
        """Stores a stream that can be read again, unless it exists: it is read once for its digest and once
        to be stored, without a temporary file."""
        digest, size = hashlib.sha256(), 0
        for chunk in chunks():
            digest.update(chunk)
            size += len(chunk)
        ref = BlobRef(digest=digest.hexdigest(), size=size)
        self.put_known(ref, chunks)
        return ref

    def put_known(self, ref: BlobRef, chunks: Callable[[], Iterable[Chunk]]) -> None:
        """Stores a stream whose digest its maker has computed, unless it exists."""
        if not self.has(ref):
            self.store.put(self.key(ref), chunks())

    def get_bytes(self, ref: BlobRef) -> bytes:
        """Returns a whole blob, verified. It must fit into memory."""
        return b"".join(self.stream(ref))

    def stream(self, ref: BlobRef) -> Iterator[bytes]:
        """Streams a blob chunk by chunk. Raises CorruptObject before the first chunk when the size is wrong,
        and instead of the end when the digest is wrong: callers that act on the chunks must wait for the
        end."""
        return self.cached(ref.digest, ref.size, lambda: self._verified(ref))

    def cached(self, sha256: str, size: int, fetch: Callable[[], Iterator[bytes]]) -> Iterator[bytes]:
        """Streams the bytes with this digest from the node's cache, if there is one, and otherwise from
        `fetch`, which must verify them: see NodeCache.stream."""
        return fetch() if self.cache is None else self.cache.stream(sha256, size, fetch)

    def _verified(self, ref: BlobRef) -> Iterator[bytes]:
        key = self.key(ref)
        found = self.store.stat(key)
        if found is None:
            raise ObjectNotFound(f"{key} does not exist in {self.store!r}")
        if found.size != ref.size:
            raise self._corrupt(key, f"{ref.size} bytes", f"{found.size} bytes")
        digest, size = hashlib.sha256(), 0
        for chunk in self.store.get(key):
            digest.update(chunk)
            size += len(chunk)
            yield chunk
        if size != ref.size:
            raise self._corrupt(key, f"{ref.size} bytes", f"{size} bytes")
        if digest.hexdigest() != ref.digest:
            raise self._corrupt(key, f"sha256 {ref.digest}", f"sha256 {digest.hexdigest()}")

    def put_model(self, key: str, model: BaseModel) -> None:
        """Stores a record under the given key; replaces an existing record."""
        body = model.model_dump(mode="json")
        self.store.put(key, [canonical_json({"body": body, "sha256": digest_of(body)})])

    def get_model(self, key: str, cls: type[Model]) -> Model:
        """Reads a record. Raises ObjectNotFound; CorruptObject when it is truncated, changed or not a
        `cls`."""
        data = b"".join(self.store.get(key))
        try:
            record = json.loads(data)
            body, expected = record["body"], record["sha256"]
            actual = digest_of(body)
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise self._corrupt(
                key, "a JSON record with body and sha256", f"{len(data)} other bytes"
            ) from error
        if actual != expected:
            raise self._corrupt(key, f"body of sha256 {expected}", f"sha256 {actual}")
        try:
            return cls.model_validate_json(canonical_json(body))
        except ValidationError as error:
            raise self._corrupt(key, f"a valid {cls.__name__}", str(error)) from error

    def find_model(self, key: str, cls: type[Model]) -> Model | None:
        """Reads a record like get_model, but returns None if it does not exist."""
        try:
            return self.get_model(key, cls)
        except ObjectNotFound:
            return None

    def _corrupt(self, key: str, expected: str, actual: str) -> CorruptObject:
        return CorruptObject(f"{key} in {self.store!r} is damaged: expected {expected}, got {actual}")


def _chunks(file: IO[bytes]) -> Iterator[bytes]:
    while chunk := file.read(CHUNK_BYTES):
        yield chunk


def _unchanged(chunks: Iterable[bytes], ref: BlobRef, *, path: Path) -> Iterator[bytes]:
    """Yields the chunks; an error before their end keeps a file that changed from becoming visible."""
    digest = hashlib.sha256()
    for chunk in chunks:
        digest.update(chunk)
        yield chunk
    if digest.hexdigest() != ref.digest:
        raise SourceChanged(
            f"{path} changed while it was being stored; store it again when nothing writes it"
        )
