"""Downloads a published checkpoint. Files that are there already and intact are not fetched again."""

import hashlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from api.client.client import ClientError, SecateurClient
from api.service.jobs.views import FileView
from pipeline.artifacts.manifest import Manifest
from pipeline.artifacts.refs import ManifestRef, ReportRef

PUBLISHED = "manifest"
LAST = ManifestRef.path_of(Manifest)


def download(client: SecateurClient, job_id: str, directory: Path) -> Iterator[Path]:
    """Yields the files of a job's published checkpoint, each as soon as it is complete; the manifest last.

    The provenance, which lies beside the manifest in storage, comes from the job's report. A file gets its
    name only when its size and SHA-256 are right. Raises ClientError otherwise.
    """
    artifacts = client.artifacts(job_id).data
    published = [one for one in artifacts if one.kind == PUBLISHED]
    if not published:
        raise ClientError(f"job {job_id} has not published anything (yet)", code="not_published")
    reported = [file for one in artifacts if one.kind == "report" for file in one.files]
    beside = [file for file in reported if file.path == ReportRef.PROVENANCE]
    for file in sorted([*published[-1].files, *beside], key=lambda file: (file.path == LAST, file.path)):
        target = directory / _inside(file.path)
        if not _is_complete(target, file):
            target.parent.mkdir(parents=True, exist_ok=True)
            _fetch(client, file, target)
        yield target


def _inside(path: str) -> PurePosixPath:
    """Returns the path. Raises ClientError when it leaves the directory, which no service may do."""
    relative = PurePosixPath(path)
    if relative.is_absolute() or ".." in relative.parts or not relative.parts or "\\" in path:
        raise ClientError(f"the service names a file {path!r} outside of the directory", code="unsafe_path")
    return relative


def _is_complete(target: Path, file: FileView) -> bool:
    if not target.is_file() or target.stat().st_size != file.size:
        return False
    with target.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest() == file.sha256


def _fetch(client: SecateurClient, file: FileView, target: Path) -> None:
    digest, size = hashlib.sha256(), 0
    with tempfile.NamedTemporaryFile(dir=target.parent, prefix=".part-", delete=False) as aside:
        try:
            for chunk in client.file(file):
                digest.update(chunk)
                size += len(chunk)
                aside.write(chunk)
            aside.flush()
            if (size, digest.hexdigest()) != (file.size, file.sha256):
                raise ClientError(
                    f"{file.path} arrived damaged: expected {file.size} bytes with SHA-256 {file.sha256}, "
                    f"got {size} bytes with {digest.hexdigest()}; try again",
                    code="corrupt_download",
                )
            os.chmod(aside.name, 0o644)
            os.replace(aside.name, target)
        except BaseException:
            Path(aside.name).unlink(missing_ok=True)
            raise
