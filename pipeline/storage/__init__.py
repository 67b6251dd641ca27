"""The storage of bytes: local directories and S3 buckets behind one small interface, and content addressing
on top of it. `open_store` is the only place that knows which class serves which URL. Nothing here knows what
the bytes mean."""

from pathlib import Path
from urllib.parse import unquote, urlsplit

from pipeline.storage.base import CHUNK_BYTES, ObjectInfo, Presigner, Prober, Store
from pipeline.storage.content import BlobRef, ContentStore
from pipeline.storage.local import LocalStore
from pipeline.storage.options import S3Options

__all__ = [
    "CHUNK_BYTES",
    "BlobRef",
    "ContentStore",
    "LocalStore",
    "ObjectInfo",
    "Presigner",
    "Prober",
    "S3Options",
    "Store",
    "open_store",
]

FORMS = "file:///absolute/path or s3://bucket/prefix"


def open_store(url: str, s3: S3Options | None = None) -> Store:
    """Opens the store behind `file:///absolute/path` or `s3://bucket/prefix`. Raises ValueError, which names
    these forms.

    Opening contacts no server; `probe` does.
    """
    parts = urlsplit(url)
    if parts.query or parts.fragment:
        raise ValueError(f"storage URL {url!r} has a query or a fragment; write {FORMS}")
    if parts.scheme == "file":
        if parts.netloc or not parts.path.startswith("/"):
            raise ValueError(f"storage URL {url!r} needs an absolute path; write {FORMS}")
        return LocalStore(Path(unquote(parts.path)))
    if parts.scheme == "s3":
        if not parts.netloc or "@" in parts.netloc:
            raise ValueError(f"storage URL {url!r} needs a bucket and no credentials; write {FORMS}")
        from pipeline.storage.s3 import S3Store  # loads boto3: half a second that local stores save

        return S3Store(parts.netloc, parts.path.strip("/"), s3)
    raise ValueError(f"storage URL {url!r} has an unknown scheme; write {FORMS}")
