"""The life of attempts in the database. Every transition is one transaction on the locked job.

The API process that holds the lease of a job advances it; a process that has lost the lease changes nothing.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from sqlalchemy import func, or_, select, text, update
from sqlalchemy.orm import Session

from api.db.engine import Database
from api.db.models import Attempt, Job
from api.service.ids import submission_id
from api.service.jobs import journal
from pipeline.dag.next_actions import decide
from pipeline.dag.plan import plan_of
from pipeline.job.events import (
    AttemptFailed,
    AttemptStarted,
    AttemptSubmitted,
    EventBody,
    FailureReason,
    JobCancelled,
    JobFailed,
    JobQueued,
    JobSucceeded,
    Message,
    NodePlanned,
    StageFinished,
)
from pipeline.job.ledger import JobResult
from pipeline.job.state import TERMINAL, JobState
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
    """An attempt under our lease. `reported` is the failure that the driver itself reported."""

    job: str
    number: int
    submission_id: str
    submitted: bool
    cancelling: bool
    reported: FailureReason | None
    request: JobRequest
    pins: Pins
    reproduces: str | None


def anything_to_do(database: Database) -> bool:
    """Tells whether any job has not ended. Every round asks this first, so an idle service writes nothing."""
    with database.read() as session:
        return session.scalar(select(Job.id).where(Job.status.not_in(TERMINAL)).limit(1)) is not None


def claim_live(database: Database, lease: Lease) -> list[LiveAttempt]:
    """Renew our leases, take those that ran out, and return the attempts that are ours to follow."""
    now = datetime.now(UTC)
    free = or_(Job.lease_owner.is_(None), Job.lease_owner == lease.owner, Job.lease_until < now)
    with database.write() as session:
        session.execute(
            update(Job).where(Job.live, free).values(lease_owner=lease.owner, lease_until=lease.until)
        )
        rows = session.execute(
            select(Job, Attempt)
            .join(Attempt, (Attempt.job == Job.id) & (Attempt.number == Job.attempt))
            .where(Job.live, Job.lease_owner == lease.owner)
            .order_by(Job.id)
        )
        return [_live(job, attempt) for job, attempt in rows]


def open_next(database: Database, lease: Lease, *, limit: int) -> bool:
    """Begin an attempt of the most urgent waiting job, unless `limit` jobs run. Returns whether one began."""
    now = datetime.now(UTC)
    with database.write() as session:
        if session.get_bind().dialect.name == "postgresql":  # SQLite's writers take turns anyway
            session.execute(text("SELECT pg_advisory_xact_lock(:n)"), {"n": CLAIM_LOCK})
        if len(session.scalars(select(Job.id).where(Job.live).limit(limit)).all()) >= limit:
            return False
        job = session.scalar(
            select(Job)
            .where(Job.status == "queued", ~Job.live, or_(Job.not_before.is_(None), Job.not_before <= now))
            .order_by(Job.priority.desc(), Job.id)
            .limit(1)
            .with_for_update()
        )
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


def set_token(database: Database, lease: Lease, live: LiveAttempt, *, digest: str) -> None:
    """Store the digest of the token that the driver will have. Raises LeaseLost."""
    with database.write() as session:
        _, attempt = _held(session, lease, live)
        attempt.token_digest = digest


def mark_submitted(database: Database, lease: Lease, live: LiveAttempt) -> None:
    """Note that Ray has the attempt. Raises LeaseLost."""
    with database.write() as session:
        job, attempt = _held(session, lease, live)
        attempt.submitted_at = datetime.now(UTC)
        _record(session, job, AttemptSubmitted(submission_id=live.submission_id))


def succeed(database: Database, lease: Lease, live: LiveAttempt, result: JobResult) -> None:
    """Note that the job succeeded. Events that the driver did not deliver follow from the result. Raises
    LeaseLost."""
    with database.write() as session:
        job, _ = _end(session, lease, live)
        state = journal.state_of(job)
        if not state.stages:
            nodes = plan_of(live.request, live.pins).nodes
            planned = (
                NodePlanned(node=n.id, stage=n.stage.kind, needs=tuple(sorted(n.needs))) for n in nodes
            )
            state = _record(session, job, AttemptStarted(nodes=tuple(planned)))
        done = {stage.node for stage in state.stages if stage.status in ("cached", "succeeded")}
        missed = [StageFinished(result=node) for node in result.nodes if node.node not in done]
        _record(session, job, *missed, JobSucceeded())


def cancelled(database: Database, lease: Lease, live: LiveAttempt) -> None:
    """Note that the job was stopped as requested. Raises LeaseLost."""
    with database.write() as session:
        job, _ = _end(session, lease, live)
        _record(session, job, JobCancelled())


def fail(database: Database, lease: Lease, live: LiveAttempt, reason: FailureReason, *, limit: int) -> bool:
    """Note that the attempt failed: queue the job again after a pause, or fail it. True when it is queued.

    Raises LeaseLost.
    """
    with database.write() as session:
        job, attempt = _end(session, lease, live)
        if live.reported is None:
            _record(session, job, AttemptFailed(reason=reason))
        attempt.reason = reason.model_dump_json()
        if job.status == "cancelling":
            _record(session, job, JobCancelled())
            return False
        job.tries += 1
        decision = decide(reason, tries=job.tries, limit=limit)
        if decision.action == "fail":
            _record(session, job, JobFailed(reason=reason))
            return False
        job.not_before = datetime.now(UTC) + timedelta(seconds=decision.delay_seconds)
        note = Message(level="warning", text=f"attempt {live.number}: {reason.message}; {decision.why}")
        _record(session, job, note, JobQueued())
        return True


def interrupt(database: Database, lease: Lease, live: LiveAttempt) -> None:
    """Note that the service itself ended the attempt. The job waits for its next start and loses no try."""
    message = "the service was stopped; the job continues when it starts again"
    reason = FailureReason(code="service_stopped", message=message, blame="machine")
    with database.write() as session:
        job, _ = _end(session, lease, live)
        after = JobCancelled() if job.status == "cancelling" else JobQueued()
        _record(session, job, AttemptFailed(reason=reason), after)


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


def note_log_stored(database: Database, live: LiveAttempt) -> None:
    """Note that the driver's output is in storage."""
    with database.write() as session:
        attempt = session.get(Attempt, (live.job, live.number))
        assert attempt is not None, "attempts are never deleted"
        attempt.log_stored = True


def jobs_by_status(database: Database) -> Mapping[str, int]:
    """The number of jobs of each status that occurs."""
    with database.read() as session:
        rows = session.execute(select(Job.status, func.count()).group_by(Job.status))
        return {status: count for status, count in rows.all()}  # noqa: C416


def _live(job: Job, attempt: Attempt) -> LiveAttempt:
    return LiveAttempt(
        job=job.id,
        number=attempt.number,
        submission_id=attempt.submission_id,
        submitted=attempt.submitted_at is not None,
        cancelling=job.status == "cancelling",
        reported=FailureReason.model_validate_json(attempt.reason) if attempt.reason else None,
        request=JobRequest.model_validate_json(job.request),
        pins=Pins.model_validate_json(job.pins),
        reproduces=job.reproduces,
    )


def _held(session: Session, lease: Lease, live: LiveAttempt) -> tuple[Job, Attempt]:
    job = journal.locked(session, live.job)
    attempt = session.get(Attempt, (live.job, live.number))
    if job is None or attempt is None or job.lease_owner != lease.owner or attempt.ended_at is not None:
        raise LeaseLost(f"attempt {live.number} of {live.job} is not ours any more")
    return job, attempt


def _end(session: Session, lease: Lease, live: LiveAttempt) -> tuple[Job, Attempt]:
    job, attempt = _held(session, lease, live)
    attempt.ended_at = datetime.now(UTC)
    job.live = False
    job.not_before = None
    job.lease_owner = job.lease_until = None
    return job, attempt


def _record(session: Session, job: Job, *bodies: EventBody) -> JobState:
    return journal.append(session, job, [journal.said_now(body, attempt=job.attempt) for body in bodies])
