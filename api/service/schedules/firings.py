"""Firings: they are opened when a schedule is due, started as soon as their sources answer, and closed by
outcomes.py.

A caller that opens or starts one has locked the row of its schedule, so that the second of two API processes
sees the work of the first. A waiting firing has no job yet; its job is made in the transaction that ends the
waiting, so that neither exists without the other.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import PurePosixPath

from pydantic import TypeAdapter, ValidationError
from sqlalchemy import ColumnElement, select
from sqlalchemy.orm import Session

from api.db.models import Firing, Job, Schedule
from api.service.context import Services
from api.service.jobs import jobs, journal
from api.service.schedules.request import Overlap, ScheduleRequest
from api.service.schedules.views import Cause, Outcome
from pipeline.job.state import TERMINAL
from pipeline.request.prune_spec import JobRequest, Label
from pipeline.resolve.watching import checkpoint_digest
from pipeline.sources.pins import MODEL, Pins
from pipeline.spec.uri import parse_uri

MAX_NAME = 100
LABEL: TypeAdapter[str] = TypeAdapter(Label)


@dataclass(frozen=True)
class Prepared:
    """A job that is not stored yet, with pinned sources."""

    request: JobRequest
    pins: Pins

    @property
    def digest(self) -> str:
        """The digest of the checkpoint that the job would prune."""
        return checkpoint_digest(self.pins.of(MODEL))


def locked(session: Session, schedule_id: str) -> Schedule | None:
    """The row of a schedule, locked until the transaction ends."""
    return session.scalar(select(Schedule).where(Schedule.id == schedule_id).with_for_update())


def prepare(services: Services, definition: ScheduleRequest, *, source: str, watched: bool) -> Prepared:
    """Pin the sources of a firing. No transaction may be open, because sources are slow. Raises the errors of
    POST /jobs."""
    request = _request(definition, source=source, watched=watched)
    return Prepared(request=request, pins=services.resolve(request.spec))


def open_one(
    session: Session,
    schedule: Schedule,
    *,
    cause: Cause,
    at: datetime,
    source: str | None,
    due_at: datetime | None = None,
    digest: str | None = None,
    outcome: Outcome = "waiting",
    reason: str | None = None,
) -> Firing | None:
    """Adds a firing of a locked schedule. Returns None when this moment or checkpoint had one."""
    if due_at is not None and _of(session, schedule, Firing.due_at == due_at) is not None:
        return None
    if digest is not None and of_digest(session, schedule, digest) is not None:
        return None
    firing = Firing(
        schedule=schedule.id,
        cause=cause,
        at=at,
        due_at=due_at,
        source=source,
        digest=digest,
        outcome=outcome,
        reason=reason,
        decided_at=at if outcome != "waiting" else None,
    )
    session.add(firing)
    session.flush()
    return firing


def of_digest(session: Session, schedule: Schedule, digest: str) -> Firing | None:
    """The firing of a checkpoint; None when it had none."""
    return _of(session, schedule, Firing.digest == digest)


def start(
    session: Session,
    schedule: Schedule,
    firing: Firing,
    prepared: Prepared,
    *,
    overlap: Overlap,
    now: datetime,
) -> None:
    """Make the job of a waiting firing, unless the overlap policy skips it. The schedule is locked."""
    earlier = _unfinished(session, schedule)
    if earlier and overlap == "skip":
        close(firing, "skipped", f"{earlier[-1].id} had not ended (overlap: skip)", now=now)
        return
    if overlap == "cancel":
        for job in earlier:
            jobs.stop(session, job)
    firing.job = jobs.add(session, prepared.request, prepared.pins).id
    firing.outcome = "running"
    if overlap == "cancel" and earlier:
        firing.reason = f"{', '.join(job.id for job in earlier)} was cancelled for it (overlap: cancel)"


def close(firing: Firing, outcome: Outcome, reason: str | None, *, now: datetime) -> None:
    """Store the outcome of a firing."""
    firing.outcome = outcome
    firing.reason = reason
    firing.decided_at = now


def waiting(session: Session, schedule: str) -> Sequence[Firing]:
    """The firings of a schedule without a job as yet, oldest first."""
    query = select(Firing).where(Firing.schedule == schedule, Firing.outcome == "waiting")
    return session.scalars(query.order_by(Firing.id)).all()


def _unfinished(session: Session, schedule: Schedule) -> list[Job]:
    """The jobs of the schedule that have not ended, oldest first, locked."""
    ids = session.scalars(
        select(Job.id)
        .join(Firing, Firing.job == Job.id)
        .where(Firing.schedule == schedule.id, Job.status.not_in(TERMINAL))
        .order_by(Job.id)
    ).all()
    found = (journal.locked(session, job) for job in ids)
    return [job for job in found if job is not None and job.status not in TERMINAL]


def _of(session: Session, schedule: Schedule, condition: ColumnElement[bool]) -> Firing | None:
    return session.scalar(select(Firing).where(Firing.schedule == schedule.id, condition))


def _request(definition: ScheduleRequest, *, source: str, watched: bool) -> JobRequest:
    template = definition.template
    checkpoint = PurePosixPath(parse_uri(source).location).name if watched else ""
    given = {"schedule": definition.name, "checkpoint": checkpoint}
    labels = template.labels | {key: value for key, value in given.items() if _is_label(value)}
    name = " ".join(part for part in (template.name or definition.name, checkpoint) if part)
    spec = template.spec.model_dump() | {"model": {"source": source}}
    document = template.model_dump() | {"spec": spec, "labels": labels, "name": name[:MAX_NAME]}
    return JobRequest.model_validate(document)


def _is_label(text: str) -> bool:
    try:
        LABEL.validate_python(text)
    except ValidationError:
        return False
    return True
