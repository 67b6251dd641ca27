"""Functions that accept, find, cancel and retry jobs."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from sqlalchemy import exists, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from api.db.models import Job, JobLabel
from api.errors import ApiError
from api.service.context import Services
from api.service.ids import first_id, new_job_id
from api.service.jobs import journal
from api.service.stored import whole
from pipeline.canonical import digest_of
from pipeline.job.events import JobCancelled, JobCancelRequested, JobQueued
from pipeline.job.state import TERMINAL, JobState
from pipeline.planning.fits import checked_estimates
from pipeline.request.prune_spec import JobRequest
from pipeline.sources.pins import Pins

AROUND = 24 * 3600  # seconds; an id has the time of its making, perhaps by the clock of another process


@dataclass(frozen=True)
class Filters:
    """The filters of `GET /jobs`. `model` matches a part of the source."""

    status: str | None = None
    labels: tuple[tuple[str, str], ...] = ()
    model: str | None = None
    created_after: int | None = None
    created_before: int | None = None


def submit(services: Services, request: JobRequest, *, idempotency_key: str | None) -> Job:
    """Pin the sources and store the job. A stored job is never lost.

    A repeated idempotency key returns the job of its first use. Raises ApiError 409 when the body differs,
    and InvalidRequest when a source is wrong or a stage cannot fit the declared GPUs.
    """
    digest = digest_of(request.model_dump(mode="json", exclude_unset=True))  # new fields leave it as it is
    if idempotency_key is not None:
        with services.database.read() as session:
            earlier = _by_idempotency_key(session, idempotency_key, digest)
        if earlier is not None:
            return earlier
    pins = services.resolve(request.spec)
    checked_estimates(request, pins)
    try:
        with services.database.write() as session:
            job = add(session, request, pins, digest=digest, idempotency_key=idempotency_key)
    except IntegrityError:
        if idempotency_key is None:
            raise
        with services.database.read() as session:  # another request was faster with the same key
            earlier = _by_idempotency_key(session, idempotency_key, digest)
        if earlier is None:
            raise
        return earlier
    services.wake.set()
    return job


def add(
    session: Session,
    request: JobRequest,
    pins: Pins,
    *,
    digest: str | None = None,
    idempotency_key: str | None = None,
    reproduces: str | None = None,
) -> Job:
    """Add a queued job within the transaction of the session, without waking the dispatcher."""
    job = _new_job(request, pins, digest=digest or digest_of(request), idempotency_key=idempotency_key)
    job.reproduces = reproduces
    session.add(job)
    session.flush()
    session.add_all(JobLabel(job=job.id, key=k, value=v) for k, v in request.labels.items())
    journal.append(session, job, [journal.said_now(JobQueued(), attempt=0)])
    return job


def find(services: Services, job_id: str) -> Job:
    """One job. Raises ApiError 404."""
    with services.database.read() as session:
        job = session.get(Job, job_id)
    if job is None:
        raise no_such_job(job_id)
    return job


def status_of(session: Session, job_id: str) -> str | None:
    """The status of one job; None when it does not exist."""
    return session.scalar(select(Job.status).where(Job.id == job_id))


def page(
    services: Services, filters: Filters, *, after: str | None, limit: int
) -> tuple[Sequence[Job], bool]:
    """Returns jobs older than the job `after`, newest first, and whether there are more."""
    query = select(Job.id).order_by(Job.id.desc()).limit(limit + 1)  # from indexes; rows are wide
    if after is not None:
        query = query.where(Job.id < after)
    if filters.status is not None:
        query = query.where(Job.status == filters.status)
    if filters.model is not None:
        query = query.where(Job.model.contains(filters.model, autoescape=True))
    if filters.created_after is not None:
        moment = datetime.fromtimestamp(filters.created_after, UTC)
        query = query.where(
            Job.created_at >= moment, Job.id >= first_id("job", filters.created_after - AROUND)
        )
    if filters.created_before is not None:
        moment = datetime.fromtimestamp(filters.created_before, UTC)
        query = query.where(
            Job.created_at < moment, Job.id < first_id("job", filters.created_before + AROUND)
        )
    for key, value in filters.labels:
        query = query.where(
            exists().where(JobLabel.job == Job.id, JobLabel.key == key, JobLabel.value == value)
        )
    with services.database.read() as session:
        ids = session.scalars(query).all()
        rows = session.scalars(select(Job).where(Job.id.in_(ids)).order_by(Job.id.desc())).all()
    return rows[:limit], len(ids) > limit


def cancel(services: Services, job_id: str) -> Job:
    """Cancel a job: at once while it waits, else as soon as Ray has stopped it. Repeats are harmless."""
    with services.database.write() as session:
        job = _locked(session, job_id)
        if job.status in TERMINAL and job.status != "cancelled":
            raise ApiError(
                409,
                "job_ended",
                f"job {job_id} has {job.status}; only a job that has not ended can be cancelled",
            )
        stop(session, job)
    services.wake.set()
    return job


def stop(session: Session, job: Job) -> None:
    """Cancel a locked job, unless it is being cancelled or has ended, without waking the dispatcher."""
    if job.status != "cancelling" and job.status not in TERMINAL:
        body = JobCancelRequested() if job.live else JobCancelled()
        journal.append(session, job, [journal.said_now(body, attempt=job.attempt)])


def retry(services: Services, job_id: str) -> Job:
    """Queue a failed or cancelled job again, with the same pinned sources. It uses its stored results."""
    with services.database.write() as session:
        job = _locked(session, job_id)
        if job.status not in ("failed", "cancelled"):
            raise ApiError(
                409,
                "job_not_retryable",
                f"job {job_id} is {job.status}; only a failed or cancelled job can be retried",
            )
        job.tries = 0
        job.not_before = job.deadline_at = None
        journal.append(session, job, [journal.said_now(JobQueued(), attempt=job.attempt)])
    services.wake.set()
    return job


def reproduce(services: Services, job_id: str) -> Job:
    """Queue a job that does the work of a succeeded one again, from the same pinned sources and under keys of
    its own. Its report compares the two. Raises ApiError 404 and 409."""
    with services.database.write() as session:
        first = _locked(session, job_id)
        if first.status != "succeeded":
            raise ApiError(
                409,
                "job_not_reproducible",
                f"job {job_id} is {first.status}; only a job that has succeeded can be reproduced",
            )
        request = whole(JobRequest, first.request, f"the request of {job_id}")
        pins = whole(Pins, first.pins, f"the pinned sources of {job_id}")
        job = add(session, request, pins, reproduces=job_id)
    services.wake.set()
    return job


def no_such_job(job_id: str) -> ApiError:
    """The error 404 of all routes below /jobs/{id}."""
    return ApiError(404, "job_not_found", f"there is no job {job_id}", "id")


def _locked(session: Session, job_id: str) -> Job:
    job = journal.locked(session, job_id)
    if job is None:
        raise no_such_job(job_id)
    return job


def _by_idempotency_key(session: Session, key: str, digest: str) -> Job | None:
    job = session.scalar(select(Job).where(Job.idempotency_key == key))
    if job is not None and job.body_digest != digest:
        raise ApiError(
            409,
            "idempotency_conflict",
            f"Idempotency-Key {key!r} was used with another body for job {job.id}; choose another key",
            "Idempotency-Key",
        )
    return job


def _seconds(hours: float | None) -> int | None:
    return None if hours is None else math.ceil(hours * 3600)


def _new_job(request: JobRequest, pins: Pins, *, digest: str, idempotency_key: str | None) -> Job:
    state = JobState()
    return Job(
        id=new_job_id(),
        created_at=datetime.now(UTC),
        request=request.model_dump_json(),
        pins=pins.model_dump_json(),
        model=request.spec.model.source,
        priority=request.priority,
        max_runtime=_seconds(request.max_runtime_hours),
        idempotency_key=idempotency_key,
        body_digest=digest,
        status=state.status,
        state=state.model_dump_json(),
        attempt=0,
        tries=0,
        live=False,
    )
