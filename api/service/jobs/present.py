"""Turns rows of jobs into the models that users see."""

from datetime import datetime
from urllib.parse import quote

from api.db.models import Job
from api.service.jobs.journal import state_of
from api.service.jobs.views import ArtifactView, FileView, JobErrorView, JobView, Links, StageView
from api.service.stored import Unreadable, known, whole, word
from pipeline.job.ledger import NodeResult
from pipeline.job.state import JobState, Status
from pipeline.request.prune_spec import JobRequest


def job_view(job: Job) -> JobView:
    """A job as users see it, also when another version of Secateur stored it."""
    request, why = _request(job)
    try:
        state = state_of(job)
    except Unreadable as error:
        state, why = JobState(attempt=job.attempt), why or error.message
    base = f"/jobs/{job.id}"
    return JobView(
        id=job.id,
        created_at=int(job.created_at.timestamp()),
        started_at=_whole(state.started_at),
        finished_at=_whole(state.finished_at),
        status=word(job.status, Status),
        stage=state.stage,
        progress=round(state.progress, 4),
        error=_error(state),
        name=request.name if request is not None else None,
        labels=request.labels if request is not None else {},
        priority=job.priority,
        model=job.model,
        attempt=state.attempt,
        reproduces=job.reproduces,
        stages=tuple(_stages(state)),
        spec=request.spec if request is not None else None,
        resources=request.resources if request is not None else None,
        unread=why,
        links=Links(
            self=base,
            events=f"{base}/events",
            logs=f"{base}/logs",
            artifacts=f"{base}/artifacts",
            report=f"{base}/report",
        ),
    )


def _request(job: Job) -> tuple[JobRequest | None, str | None]:
    """The request, as far as this version knows it, and a sentence if that is not all of it."""
    what = f"the request of {job.id}"
    try:
        return whole(JobRequest, job.request, what), None
    except Unreadable as error:
        why = error.message
    try:
        return known(JobRequest, job.request, what), why
    except Unreadable:
        return None, why


def _stages(state: JobState) -> list[StageView]:
    return [
        StageView(
            **stage.model_dump(exclude={"started_at", "finished_at"}),
            started_at=stage.started_at and round(stage.started_at.timestamp(), 3),
            finished_at=stage.finished_at and round(stage.finished_at.timestamp(), 3),
        )
        for stage in state.stages
    ]


def _error(state: JobState) -> JobErrorView | None:
    reason = state.error
    if reason is None:
        return None
    return JobErrorView(
        code=reason.code,
        message=reason.message,
        blame=reason.blame,
        param=reason.param,
        node=reason.node,
        log=reason.log,
    )


def _whole(moment: datetime | None) -> int | None:
    return int(moment.timestamp()) if moment is not None else None


def artifact_views(job_id: str, result: NodeResult) -> list[ArtifactView]:
    """The artifacts of one node."""
    views = []
    for name, artifact in sorted(result.artifacts.items()):
        base = f"/jobs/{job_id}/artifacts/{quote(result.node)}/{quote(name)}"
        files = tuple(
            FileView(
                path=file.path, size=file.blob.size, sha256=file.blob.digest, url=f"{base}/{quote(file.path)}"
            )
            for file in artifact.files
        )
        views.append(
            ArtifactView(
                node=result.node,
                artifact=name,
                kind=artifact.kind,
                digest=artifact.digest,
                size=artifact.size,
                cached=result.cached,
                files=files,
            )
        )
    return views
