"""The life of attempts in the database. Every transition is one transaction on the locked job.

The API process that holds the lease of a job (leases.py) advances it; a process that has lost the lease
changes nothing.
"""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from api.db.engine import Database
from api.db.models import Attempt, Job
from api.service.jobs import journal
from api.service.jobs.leases import Lease, LeaseLost, LiveAttempt, asked_of
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
from pipeline.job.state import JobState


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
        if job.max_runtime is not None and job.deadline_at is None:
            job.deadline_at = attempt.submitted_at + timedelta(seconds=job.max_runtime)
        _record(session, job, AttemptSubmitted(submission_id=live.submission_id))


def succeed(database: Database, lease: Lease, live: LiveAttempt, result: JobResult) -> None:
    """Note that the job succeeded. Events that the driver did not deliver follow from the result. Raises
    LeaseLost."""
    with database.write() as session:
        job, _ = _end(session, lease, live)
        state = journal.state_of(job)
        if not state.stages:
            asked = asked_of(job)
            nodes = plan_of(asked.request, asked.pins).nodes
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


def tell(database: Database, lease: Lease, live: LiveAttempt, message: Message) -> None:
    """Tell those who follow the job something about an attempt. Raises LeaseLost."""
    with database.write() as session:
        job, _ = _held(session, lease, live)
        _record(session, job, message)


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
