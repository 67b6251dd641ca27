"""The meaning of an S3 server's answers, and header values, independent of the client library."""

import re
from urllib.parse import quote

from pipeline.errors import CorruptObject, ObjectNotFound, StorageError, StorageUnavailable

MISSING_KEY = ("NoSuchKey", "NotFound", "404")
CORRUPTED = ("BadDigest", "XAmzContentSHA256Mismatch", "XAmzContentChecksumMismatch")
REFUSED = ("AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "401", "403")
BUSY = ("SlowDown", "RequestTimeout", "Throttling", "ThrottlingException", "TooManyRequestsException", "429")
CHANGED = ("PreconditionFailed", "412")
CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)")


def meaning(code: str, status: int) -> tuple[type[StorageError], str]:
    """Returns our error class for an S3 error code and HTTP status, and a description."""
    if code in MISSING_KEY:
        return ObjectNotFound, "it does not exist"
    if code == "NoSuchBucket":
        return StorageError, "the bucket does not exist"
    if code in CORRUPTED:
        return CorruptObject, "the bytes were damaged on their way"
    if code in REFUSED:
        return (
            StorageError,
            "access was refused; check the credentials and what they may read, write and list",
        )
    if code in CHANGED:
        return StorageUnavailable, "it was replaced while it was read"
    if code in BUSY or status >= 500:
        return StorageUnavailable, "the server is overloaded or failing"
    return StorageError, "the server rejected the request"


def check_range_served(header: str, position: int, *, end: int, what: str) -> None:
    """Detects, by Content-Range, servers that ignore ranges and objects that end before `end`."""
    found = CONTENT_RANGE.fullmatch(header.strip())
    if found is None or int(found[1]) != position:
        raise StorageError(f"{what}: asked from byte {position}, the server sent {header or 'everything'}")
    stop = int(found[2]) + 1
    if stop < end:
        raise CorruptObject(f"{what} is truncated: expected at least {end} bytes, got {stop}")


def bare(etag: str | None) -> str:
    """Returns an ETag without its quotes; empty if the server sent none."""
    return (etag or "").strip('"')


def attachment(filename: str) -> str:
    """Returns a Content-Disposition for saving under a name: plain ASCII for old programs, and the name
    itself."""
    plain = re.sub(r"[^A-Za-z0-9._ -]", "_", filename)
    return f"attachment; filename=\"{plain}\"; filename*=UTF-8''{quote(filename, safe='')}"
