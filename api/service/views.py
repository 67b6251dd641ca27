"""What users see of a job."""

from datetime import datetime
from typing import Literal

from pydantic import Field

from api.db.models import Attempt, Job
from pipeline.canonical import Frozen
from pipeline.events import Event
from pipeline.job import JobState, StageStatus, Status
from pipeline.spec import JobRequest, PruneSpec, Resources


class JobErrorView(Frozen):
    """Why a job failed. `node` and `log` tell where to look."""

    code: str
    message: str
    param: str | None = None
    node: str | None = None
    log: str | None = None


class StageView(Frozen):
    """One node of the DAG. Times are Unix seconds."""

    node: str
    stage: str
    needs: tuple[str, ...]
    status: StageStatus
    done: float
    total: float
    unit: str
    started_at: float | None
    finished_at: float | None
    note: str | None


class Links(Frozen):
    """Where the rest of a job is."""

    self: str
    events: str
    logs: str
    artifacts: str
    report: str


class JobView(Frozen):
    """A job. Times are Unix seconds; `progress` is in [0, 1]."""

    id: str
    object: Literal["job"] = "job"
    created_at: int
    started_at: int | None
    finished_at: int | None
    status: Status
    stage: str | None = Field(description="What runs now.")
    progress: float
    error: JobErrorView | None
    name: str | None
    labels: dict[str, str]
    priority: int
    model: str
    attempt: int
    stages: tuple[StageView, ...]
    spec: PruneSpec
    resources: Resources
    links: Links


class JobList(Frozen):
    """A page of jobs, newest first. `next` is the `after` of the next page."""

    object: Literal["list"] = "list"
    data: tuple[JobView, ...]
    has_more: bool
    next: str | None


class EventList(Frozen):
    """A page of events, oldest first. `next` is the `after` of the next page, also when it is still empty."""

    object: Literal["list"] = "list"
    data: tuple[Event, ...]
    has_more: bool
    next: int


class AttemptView(Frozen):
    """One Ray job that worked on a job."""

    attempt: int
    submission_id: str
    created_at: int
    ended_at: int | None


def job_view(job: Job) -> JobView:
    """A job as users see it."""
    request = JobRequest.model_validate_json(job.request)
    state = JobState.model_validate_json(job.state)
    base = f"/jobs/{job.id}"
    return JobView(
        id=job.id,
        created_at=int(job.created_at.timestamp()),
        started_at=_whole(state.started_at),
        finished_at=_whole(state.finished_at),
        status=state.status,
        stage=state.stage,
        progress=round(state.progress, 4),
        error=_error(state),
        name=request.name,
        labels=request.labels,
        priority=request.priority,
        model=request.spec.model.source,
        attempt=state.attempt,
        stages=tuple(_stages(state)),
        spec=request.spec,
        resources=request.resources,
        links=Links(
            self=base,
            events=f"{base}/events",
            logs=f"{base}/logs",
            artifacts=f"{base}/artifacts",
            report=f"{base}/report",
        ),
    )


def attempt_view(attempt: Attempt) -> AttemptView:
    """An attempt as users see it."""
    return AttemptView(
        attempt=attempt.number,
        submission_id=attempt.submission_id,
        created_at=int(attempt.created_at.timestamp()),
        ended_at=_whole(attempt.ended_at),
    )


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
        code=reason.code, message=reason.message, param=reason.param, node=reason.node, log=reason.log
    )


def _whole(moment: datetime | None) -> int | None:
    return int(moment.timestamp()) if moment is not None else None
