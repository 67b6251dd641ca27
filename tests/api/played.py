"""A job as the dispatcher and a driver would run it, event by event, with a real report at its end."""

from api.service.jobs import journal
from pipeline.artifacts.artifact import FileRef
from pipeline.artifacts.manifest import Manifest, ManifestEntry
from pipeline.artifacts.refs import ArtifactRef, ManifestRef, ReportRef
from pipeline.canonical import canonical_json
from pipeline.job.events import (
    AttemptFailed,
    AttemptStarted,
    AttemptSubmitted,
    EventBody,
    FailureReason,
    JobFailed,
    JobSucceeded,
    NodePlanned,
    StageFinished,
    StageProgress,
    StageStarted,
)
from pipeline.job.ledger import Measured, NodeResult
from pipeline.report.data import ReportData, report_json
from pipeline.report.page import render_html
from pipeline.storage import ContentStore
from tests.api.conftest import RunningApi
from tests.pipeline.evaluation.made_tasks import with_tasks
from tests.pipeline.report.made_report import made_report

KEY = "0" * 64
WEIGHTS = b"weights" * 100_000
CONFIG = b'{"model_type": "llama"}'


def say(api: RunningApi, job_id: str, *bodies: EventBody, attempt: int = 1) -> None:
    """Append events to a job."""
    with api.services.database.write() as session:
        job = journal.locked(session, job_id)
        assert job is not None
        journal.append(session, job, [journal.said_now(body, attempt=attempt) for body in bodies])


def start(api: RunningApi, job_id: str) -> None:
    """Start an attempt whose prune stage has done one block of two."""
    nodes = ("import_model", "prune", "publish", "report")
    planned = tuple(NodePlanned(node=node, stage=node, needs=()) for node in nodes)
    say(
        api,
        job_id,
        AttemptSubmitted(submission_id=f"{job_id}-1"),
        AttemptStarted(nodes=planned),
        finished("import_model", cached=True),
        StageStarted(node="prune", key=KEY),
        StageProgress(node="prune", done=0, total=2, unit="block"),
        StageProgress(node="prune", done=1, total=2, unit="block", note="block 0"),
    )


def succeed(api: RunningApi, job_id: str, data: ReportData | None = None) -> None:
    """Finish the attempt with success, and with a report."""
    say(api, job_id, *succeeding(api.services.content, data))


def succeeding(content: ContentStore, data: ReportData | None = None) -> list[EventBody]:
    """Store the artifacts of the last stages, and return their events."""
    data = data or with_tasks(made_report(blocks=2), limit=25)
    files = {"config.json": CONFIG, "weights/model.safetensors": WEIGHTS}
    entries = []
    refs = []
    for path, held in files.items():
        ref = FileRef(path=path, blob=content.put_bytes(held))
        refs.append(ref)
        entries.append(ManifestEntry(path=path, size=ref.blob.size, sha256=ref.blob.digest))
    manifest = canonical_json(Manifest(files=tuple(entries)))
    refs.append(FileRef(path="manifest.json", blob=content.put_bytes(manifest)))
    pages = {"report.html": render_html(data).encode(), "report.json": report_json(data)}
    report = tuple(FileRef(path=path, blob=content.put_bytes(held)) for path, held in pages.items())
    return [
        finished("prune"),
        finished("publish", manifest=ManifestRef(files=tuple(refs), prefix=data.manifest_prefix)),
        finished("report", report=ReportRef(files=report)),
        JobSucceeded(),
    ]


def fail(api: RunningApi, job_id: str) -> None:
    """Fail the job for good."""
    reason = FailureReason(
        code="numerical_error",
        message="the loss is not finite",
        node="prune",
        param="spec.prune",
        retryable=False,
    )
    say(api, job_id, AttemptFailed(reason=reason), JobFailed(reason=reason))


def finished(node: str, *, cached: bool = False, **artifacts: ArtifactRef) -> StageFinished:
    """The event that a stage is done."""
    result = NodeResult(
        node=node, key=KEY, cached=cached, artifacts=dict(artifacts), measured=Measured(seconds=1.5)
    )
    return StageFinished(result=result)
