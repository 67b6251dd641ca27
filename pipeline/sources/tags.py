"""Tags identify the content of pinned files, and streams are checked against them."""

import hashlib
import re
from collections.abc import Iterable, Iterator

from pipeline.errors import SourceChanged
from pipeline.sources.pins import PinnedFile

HASHED_BYTES = 256 * 1024 * 1024  # larger local files are hashed while they are imported


def sha256_tag(chunks: Iterable[bytes]) -> str:
    """Returns the tag of content that can be read now."""
    digest = hashlib.sha256()
    for chunk in chunks:
        digest.update(chunk)
    return f"sha256:{digest.hexdigest()}"


def object_tag(name: str) -> str | None:
    """Returns the tag for a file's name in the hub's cache, which is its SHA-256 or its git object id."""
    if re.fullmatch(r"[0-9a-f]{64}", name):
        return f"sha256:{name}"
    return f"git:{name}" if re.fullmatch(r"[0-9a-f]{40}", name) else None


def checked(chunks: Iterable[bytes], file: PinnedFile, *, what: str) -> Iterator[bytes]:
    """Yields the same chunks. Raises SourceChanged as soon as they are too many, and instead of the end when
    they are too few or do not match a `sha256:` or `git:` tag: callers that act on them must wait for the
    end."""
    kind, _, expected = file.tag.partition(":")
    digest = hashlib.sha1(usedforsecurity=False) if kind == "git" else hashlib.sha256()
    if kind == "git":
        digest.update(b"blob %d\0" % file.size)  # git hashes a file's content with this header
    size = 0
    for chunk in chunks:
        size += len(chunk)
        if size > file.size:
            raise changed(what, f"{file.size} bytes", "more")
        digest.update(chunk)
        yield chunk
    if size != file.size:
        raise changed(what, f"{file.size} bytes", f"{size} bytes")
    if kind in ("sha256", "git") and digest.hexdigest() != expected:
        raise changed(what, file.tag, f"{kind}:{digest.hexdigest()}")


def changed(what: str, expected: str, got: str) -> SourceChanged:
    """Returns the error for a source that is no longer what was accepted."""
    return SourceChanged(
        f"{what} is no longer what was accepted: expected {expected}, got {got}; "
        f"submit the job again to work on what lies there now"
    )
