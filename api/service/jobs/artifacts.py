"""The artifacts of jobs: lists, and verified downloads."""

from collections.abc import Iterator

from api.errors import ApiError
from api.service.context import Services
from api.service.jobs import journal
from api.service.jobs.jobs import find
from api.service.jobs.present import artifact_views
from api.service.jobs.views import ArtifactList
from pipeline.artifacts.refs import ArtifactRef
from pipeline.job.ledger import NodeResult
from pipeline.storage import BlobRef, Presigner


def list_all(services: Services, job_id: str) -> ArtifactList:
    """The artifacts of every finished node, in the order in which they were made. Raises ApiError 404."""
    results = _results(services, job_id)
    views = [view for result in results.values() for view in artifact_views(job_id, result)]
    return ArtifactList(data=tuple(views))


def blob_of(services: Services, job_id: str, *, node: str, artifact: str, path: str) -> BlobRef:
    """The blob of one file. Raises ApiError 404 that names the files that exist."""
    found = _artifact(_results(services, job_id), node=node, artifact=artifact)
    if found is None:
        raise ApiError(404, "artifact_not_found", f"job {job_id} has (as yet) no artifact {node}/{artifact}")
    for file in found.files:
        if file.path == path:
            return file.blob
    names = ", ".join(file.path for file in found.files[:20])
    raise ApiError(404, "file_not_found", f"{node}/{artifact} has no file {path!r}; it has: {names}", "path")


def report_file(services: Services, job_id: str, name: str) -> bytes:
    """The report as ReportRef.JSON or ReportRef.PAGE. Raises ApiError 404 while there is no report."""
    report = _artifact(_results(services, job_id), node="report", artifact="report")
    if report is None:
        status = find(services, job_id).status
        raise ApiError(404, "report_not_ready", f"job {job_id} is {status} and has no report")
    return services.content.get_bytes(report.file(name))


def direct_url(services: Services, blob: BlobRef, *, filename: str) -> str | None:
    """An address at which the store serves a blob; None when the store has no such addresses."""
    store = services.content.store
    if not isinstance(store, Presigner):
        return None
    seconds = services.settings.presign_seconds
    return store.presign(services.content.key(blob), seconds=seconds, filename=filename)


def verified(services: Services, blob: BlobRef) -> Iterator[bytes]:
    """The chunks of a blob. The last one is sent only when all are verified, so that nobody takes an altered
    blob for a whole one.

    The first chunk is fetched now, so that a missing or truncated blob is noticed before anything is sent.
    """
    chunks = services.content.stream(blob)
    return _held_back(next(chunks, b""), chunks)


def _held_back(held: bytes, chunks: Iterator[bytes]) -> Iterator[bytes]:
    for chunk in chunks:
        yield held
        held = chunk
    yield held


def _results(services: Services, job_id: str) -> dict[str, NodeResult]:
    find(services, job_id)
    with services.database.read() as session:
        return journal.node_results(session, job_id)


def _artifact(results: dict[str, NodeResult], *, node: str, artifact: str) -> ArtifactRef | None:
    result = results.get(node)
    return result.artifacts.get(artifact) if result is not None else None
