"""Who follows which attempts: the API process that holds the lease of a job, until the lease runs out.

Attempts begin here, in the order of the queue; attempts.py has the rest of their lives.
"""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from sqlalchemy import or_, select, text, update
from sqlalchemy.orm import Session

from api.db.engine import Database
from api.db.models import QUEUED, Attempt, Job
from api.service.ids import submission_id
from api.service.jobs import journal
from api.service.stored import Unreadable, known, whole
from pipeline.job.events import (
    FailureReason,
)
from pipeline.request.prune_spec import JobRequest
from pipeline.sources.pins import Pins

CLAIM_LOCK = 7_235_112_982  # arbitrary, as long as nothing else takes the same advisory lock


class LeaseLost(Exception):
    """Another API process has taken the job, or its attempt is over."""


@dataclass(frozen=True)
class Lease:
    """The owner of leases on jobs, and the seconds for which one is valid without renewal."""

    owner: str
    seconds: float

    @property
    def until(self) -> datetime:
        """The time at which a lease that is taken now runs out."""
        return datetime.now(UTC) + timedelta(seconds=self.seconds)


@dataclass(frozen=True)
class LiveAttempt:
    """An attempt under our lease. `reported` is the failure that the driver itself reported. `deadline` is
    when its job has used up its time; `heard_at` when its driver last said anything, None for one that sends
    no heartbeats.

    What it shall do is read when it is handed over (`request_of`), so that one whose request this version
    does not understand can still be followed, cancelled and settled.
    """

    job: str
    number: int
    submission_id: str
    submitted: bool
    cancelling: bool
    reported: FailureReason | None
    deadline: datetime | None
    heard_at: datetime | None


def anything_to_do(database: Database) -> bool:
    """Tells whether any job has not ended. Every round asks this first, so an idle service writes nothing."""
    with database.read() as session:
        waiting, live = (select(Job.id).where(which).limit(1) for which in (QUEUED, Job.live))
        return session.scalar(waiting) is not None or session.scalar(live) is not None


@dataclass(frozen=True)
class Asked:
    """The request of a job, its pinned sources, and the job whose work it does again."""

    request: JobRequest
    pins: Pins
    reproduces: str | None


def claim_live(database: Database, lease: Lease, *, leave: Collection[str] = ()) -> list[LiveAttempt]:
    """Renew our leases, take those that ran out, and return the attempts that are ours to follow. `leave`:
    jobs that other processes shall take."""
    now = datetime.now(UTC)
    free = or_(Job.lease_owner.is_(None), Job.lease_owner == lease.owner, Job.lease_until < now)
    with database.write() as session:
        session.execute(
            update(Job)
            .where(Job.live, free, Job.id.not_in(leave))
            .values(lease_owner=lease.owner, lease_until=lease.until)
        )
        rows = session.execute(
            select(Job, Attempt)
            .join(Attempt, (Attempt.job == Job.id) & (Attempt.number == Job.attempt))
            .where(Job.live, Job.lease_owner == lease.owner)
            .order_by(Job.id)
        )
        return [_live(job, attempt) for job, attempt in rows]


def open_next(database: Database, lease: Lease, *, limit: int, unread: dict[str, Unreadable]) -> bool:
    """Begin an attempt of the most urgent waiting job, unless `limit` jobs run. Returns whether one began.

    A job whose request this version does not understand is added to `unread` and waits for a process of
    another version; the next one in the queue begins.
    """
    now = datetime.now(UTC)
    with database.write() as session:
        if session.get_bind().dialect.name == "postgresql":  # SQLite's writers take turns anyway
            session.execute(text("SELECT pg_advisory_xact_lock(:n)"), {"n": CLAIM_LOCK})
        if len(session.scalars(select(Job.id).where(Job.live).limit(limit)).all()) >= limit:
            return False
        job = _most_urgent(session, now, unread)
        if job is None:
            return False
        job.attempt += 1
        job.live = True
        job.lease_owner, job.lease_until = lease.owner, lease.until
        session.add(
            Attempt(
                job=job.id,
                number=job.attempt,
                submission_id=submission_id(job.id, job.attempt),
                token_digest="",
                created_at=now,
                accepted=0,
                log_stored=False,
            )
        )
    return True


def request_of(database: Database, live: LiveAttempt) -> Asked:
    """What an attempt shall do. Raises Unreadable."""
    with database.read() as session:
        job = session.get(Job, live.job, populate_existing=True)
        assert job is not None, "jobs with attempts are never deleted"
        return asked_of(job)


def pass_on(database: Database, lease: Lease, live: LiveAttempt) -> None:
    """Give up the lease on one job, so that another process may take it."""
    with database.write() as session:
        session.execute(
            update(Job)
            .where(Job.id == live.job, Job.lease_owner == lease.owner)
            .values(lease_owner=None, lease_until=None)
        )


def renew(database: Database, lease: Lease) -> None:
    """Renew the leases that an owner has."""
    with database.write() as session:
        session.execute(
            update(Job).where(Job.live, Job.lease_owner == lease.owner).values(lease_until=lease.until)
        )


def release(database: Database, owner: str) -> None:
    """Give up all leases of an owner, so that others need not wait for them to run out."""
    with database.write() as session:
        session.execute(
            update(Job).where(Job.lease_owner == owner).values(lease_owner=None, lease_until=None)
        )


def lease_owners(database: Database) -> list[str]:
    """The owners of leases on live jobs."""
    with database.read() as session:
        query = select(Job.lease_owner).where(Job.live, Job.lease_owner.is_not(None)).distinct()
        return [owner for owner in session.scalars(query) if owner is not None]


def _live(job: Job, attempt: Attempt) -> LiveAttempt:
    return LiveAttempt(
        job=job.id,
        number=attempt.number,
        submission_id=attempt.submission_id,
        submitted=attempt.submitted_at is not None,
        cancelling=job.status == "cancelling",
        reported=_reported(attempt),
        deadline=job.deadline_at,
        heard_at=attempt.heard_at,
    )


def _reported(attempt: Attempt) -> FailureReason | None:
    if attempt.reason is None:
        return None
    try:
        return known(FailureReason, attempt.reason, f"the failure of {attempt.submission_id}")
    except Unreadable as error:
        return FailureReason(code=error.code, message=error.message, blame="machine")


def asked_of(job: Job) -> Asked:
    """What a job shall do. Raises Unreadable."""
    return Asked(
        request=whole(JobRequest, job.request, f"the request of {job.id}"),
        pins=whole(Pins, job.pins, f"the pinned sources of {job.id}"),
        reproduces=job.reproduces,
    )


def _most_urgent(session: Session, now: datetime, unread: dict[str, Unreadable]) -> Job | None:
    """The first job of the queue that this version understands, locked."""
    while True:
        job = session.scalar(
            select(Job)
            .where(QUEUED, ~Job.live, or_(Job.not_before.is_(None), Job.not_before <= now))
            .where(Job.id.not_in(unread))
            .order_by(Job.priority.desc(), Job.id)
            .limit(1)
            .with_for_update()
        )
        if job is None:
            return None
        try:
            asked_of(job)
            journal.state_of(job)
        except Unreadable as error:
            unread[job.id] = error
        else:
            return job
