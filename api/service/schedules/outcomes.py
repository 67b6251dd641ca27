"""Decides the outcome of a firing whose job has ended: gates are checked, and the alias moves or stays."""

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass

from pydantic import TypeAdapter
from sqlalchemy import and_, or_, select
from sqlalchemy.orm import Session

from api.db.models import Firing, Job
from api.errors import ApiError
from api.service.context import Services
from api.service.jobs import artifacts, jobs, journal
from api.service.schedules import aliases, firings
from api.service.schedules.request import ScheduleRequest
from api.service.schedules.views import Outcome
from pipeline.artifacts.refs import ReportRef
from pipeline.errors import CorruptObject, ObjectNotFound
from pipeline.job.ledger import manifest_of
from pipeline.job.state import TERMINAL
from pipeline.report.data import Summary
from pipeline.report.gate_grammar import parse
from pipeline.report.gates import Verdict, check_gate

log = logging.getLogger(__name__)
UNDONE = ("failed", "cancelled")  # outcomes that a retry of the job undoes
UNDECIDED = or_(
    and_(Firing.outcome == "running", Job.status.in_(TERMINAL)),
    and_(Firing.outcome.in_(UNDONE), Job.status.not_in(UNDONE)),
)
VERDICTS: TypeAdapter[tuple[Verdict, ...]] = TypeAdapter(tuple[Verdict, ...])


@dataclass(frozen=True)
class _Decision:
    outcome: Outcome
    reason: str | None
    verdicts: tuple[Verdict, ...] = ()


def busy(session: Session) -> frozenset[str]:
    """The ids of schedules with a firing that waits, or whose job has ended or was retried."""
    query = select(Firing.schedule).outerjoin(Job, Job.id == Firing.job)
    return frozenset(session.scalars(query.where(or_(Firing.outcome == "waiting", UNDECIDED)).distinct()))


def undecided(session: Session, schedule: str) -> Sequence[Firing]:
    """The firings of a schedule whose job has ended, or has ended and was retried; older jobs first."""
    query = select(Firing).join(Job, Job.id == Firing.job).where(Firing.schedule == schedule, UNDECIDED)
    return session.scalars(query.order_by(Firing.job)).all()


def decide(services: Services, definition: ScheduleRequest, firing_id: int) -> None:
    """Store the outcome of a firing whose job may have ended, and move the alias if all gates hold.

    Repeats are harmless. Raises StorageError, and changes nothing, when the report cannot be reached.
    """
    with services.database.read() as session:
        firing = session.get(Firing, firing_id)
        job = session.get(Job, firing.job) if firing is not None else None
    if firing is None or job is None:
        return
    if job.status not in TERMINAL:
        _reopen(services, firing_id)
        return
    found = _decision(services, definition, job)
    with services.database.write() as session:
        schedule = firings.locked(session, firing.schedule)
        current = session.get(Firing, firing_id)
        status = jobs.status_of(session, job.id)
        if schedule is None or current is None or status != job.status:
            return  # deleted, or the job was retried
        if current.outcome not in ("running", *UNDONE):
            return  # another process was faster
        outcome, reason = found.outcome, found.reason
        if outcome == "passed" and definition.alias is not None:
            outcome, reason = _promoted(services, session, definition, current, alias=definition.alias)
        firings.close(current, outcome, reason, now=services.now())
        current.gates = VERDICTS.dump_json(found.verdicts).decode() if found.verdicts else None
    services.metrics.fired(outcome)
    log.info("schedule %s: %s is %s%s", definition.name, job.id, outcome, f": {reason}" if reason else "")


def _reopen(services: Services, firing_id: int) -> None:
    """Note that the job of a firing was retried, and runs again."""
    with services.database.write() as session:
        firing = session.get(Firing, firing_id)
        if firing is not None and firing.outcome in UNDONE:
            firing.outcome, firing.reason, firing.decided_at = "running", "its job was retried", None


def _decision(services: Services, definition: ScheduleRequest, job: Job) -> _Decision:
    if job.status == "cancelled":
        return _Decision("cancelled", "its job was cancelled")
    if job.status == "failed":
        error = journal.state_of(job).error
        return _Decision("failed", error.message if error is not None else "its job failed")
    if not definition.gates:
        return _Decision("passed", None)
    try:
        summary = _summary(services, job.id)
    except (ApiError, CorruptObject, ObjectNotFound, ValueError) as error:
        return _Decision("held", f"the gates cannot be checked: {str(error).splitlines()[0]}")
    verdicts = tuple(check_gate(parse(gate), summary) for gate in definition.gates)
    failing = [verdict.reason for verdict in verdicts if not verdict.passed]
    return _Decision("held" if failing else "passed", "; ".join(failing) or None, verdicts)


def _summary(services: Services, job_id: str) -> Summary:
    """The summary of a report. The rest may come from another version of Secateur and is not read."""
    document = json.loads(artifacts.report_file(services, job_id, ReportRef.JSON))
    summary = document.get("summary") if isinstance(document, dict) else None
    return Summary.model_validate_json(json.dumps(summary), extra="ignore")


def _promoted(
    services: Services, session: Session, definition: ScheduleRequest, firing: Firing, *, alias: str
) -> tuple[Outcome, str | None]:
    """Move the alias, unless a newer job of the schedule was promoted. The schedule is locked."""
    assert firing.job is not None, "what is promoted has a job"
    newer = session.scalar(
        select(Firing.job)
        .where(Firing.schedule == firing.schedule, Firing.outcome == "promoted", Firing.job > firing.job)
        .order_by(Firing.job.desc())
        .limit(1)
    )
    if newer is not None:
        return "held", f"{alias} points at a newer result already, that of {newer}"
    manifest = manifest_of(journal.node_results(session, firing.job).values())
    if manifest is None:
        return "held", "the job has published nothing"
    aliases.move(
        services,
        session,
        alias,
        job=firing.job,
        manifest=manifest,
        moved_by=definition.name,
        now=services.now(),
    )
    return "promoted", None
