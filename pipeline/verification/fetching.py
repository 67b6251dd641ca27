"""Fetches a published directory from its storage, and compares every file with the one that was published."""

import hashlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

from pipeline.artifacts.artifact import FileRef
from pipeline.artifacts.refs import ManifestRef, PublishedRef, ReportRef, VerificationRef
from pipeline.errors import CorruptObject, ObjectNotFound, VerificationFailed
from pipeline.storage.content import BlobRef, ContentStore
from pipeline.verification.differences import first_difference

# An earlier verification, and the report after it, may have written these.
ADDED_LATER = (*ManifestRef.content, *VerificationRef.content, ReportRef.PROVENANCE)


def fetched(
    content: ContentStore,
    published: PublishedRef,
    directory: Path,
    *,
    wanted: tuple[str, ...] | None = None,
) -> Iterator[FileRef]:
    """Fetches every file into `directory`, and yields each when it is there and right. `wanted`: the folders,
    such as `onnxruntime/`, whose files are fetched; an empty text stands for the directory itself.

    Raises VerificationFailed for files that are missing, others than those that were published, or beside
    them; it names file, and the first field or tensor that differs.
    """
    _check_names(content, published)
    for file in published.files:
        if wanted is not None and file.path[: file.path.rfind("/") + 1] not in wanted:
            continue
        target = directory / file.path
        target.parent.mkdir(parents=True, exist_ok=True)
        found = _fetch(content, f"{published.prefix}/{file.path}", target)
        if found != file.blob:
            raise VerificationFailed(
                f"{file.path} in {published.prefix} is not the file that was published: "
                f"{_difference(content, file, target, found)}; delete {published.prefix}/{file.path} "
                f"from the storage and submit the job again"
            )
        yield file


def _check_names(content: ContentStore, published: PublishedRef) -> None:
    prefix = f"{published.prefix}/"
    there = {found.key.removeprefix(prefix) for found in content.store.list(prefix)} - {*ADDED_LATER}
    expected = {file.path for file in published.files}
    for path in sorted(expected - there):
        raise VerificationFailed(f"{path} is missing in {published.prefix}; submit the job again")
    for path in sorted(there - expected):
        raise VerificationFailed(
            f"{path} lies in {published.prefix} and was not published; libraries may take it for a part of "
            f"the model, so delete it and submit the job again"
        )


def _fetch(content: ContentStore, key: str, target: Path) -> BlobRef:
    digest = hashlib.sha256()
    with target.open("wb") as file:
        for chunk in content.store.get(key):
            digest.update(chunk)
            file.write(chunk)
        return BlobRef(digest=digest.hexdigest(), size=file.tell())


def _difference(content: ContentStore, file: FileRef, target: Path, found: BlobRef) -> str:
    """The first difference from the blob that was published, or the digests alone where that one is lost."""
    with tempfile.NamedTemporaryFile(dir=target.parent, prefix=".expected-", suffix=target.suffix) as kept:
        try:
            kept.writelines(content.stream(file.blob))
        except (ObjectNotFound, CorruptObject):
            return f"its SHA-256 is {found.digest}, and was {file.blob.digest}"
        kept.flush()
        return first_difference(Path(kept.name), target)
