"""The journal of a job: events are appended and folded into its state in one transaction.

A caller of `append` has locked the job's row. The events of a job therefore have growing ids in the order in
which they become visible, and a follower that asks for ids above the last one it saw misses none.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from pydantic import TypeAdapter
from sqlalchemy import select
from sqlalchemy.orm import Session

from api.db.models import EventRow, Job
from api.service.stored import Unreadable, changed, known, known_value
from pipeline.job.events import Event, EventBody, Message
from pipeline.job.ledger import NodeResult
from pipeline.job.state import JobState, fold

BODY: TypeAdapter[EventBody] = TypeAdapter(EventBody)


@dataclass(frozen=True)
class Entry:
    """An event that is not stored yet. `sequence` is None for events of the API itself."""

    attempt: int
    body: EventBody
    at: datetime
    sequence: int | None = None


def said_now(body: EventBody, *, attempt: int) -> Entry:
    """An event of the API itself, dated now."""
    return Entry(attempt=attempt, body=body, at=datetime.now(UTC))


def locked(session: Session, job: str) -> Job | None:
    """The job's row, locked until the transaction ends."""
    return session.scalar(select(Job).where(Job.id == job).with_for_update())


def append(session: Session, job: Job, entries: Iterable[Entry]) -> JobState:
    """Store events of a locked job and its new state."""
    rows = [
        EventRow(
            job=job.id,
            attempt=entry.attempt,
            sequence=entry.sequence,
            at=entry.at,
            type=entry.body.type,
            body=entry.body.model_dump_json(),
        )
        for entry in entries
    ]
    session.add_all(rows)
    session.flush()  # ids grow in the order of the entries
    state = fold((event_of(row) for row in rows), state_of(job))
    job.state = changed(job.state, state)
    job.status = state.status
    return state


def state_of(job: Job) -> JobState:
    """The state of a job. Raises Unreadable."""
    return known(JobState, job.state, f"the state of {job.id}")


def event_of(row: EventRow) -> Event:
    """A stored event. One that this version does not know becomes a message that says so, which changes no
    state."""
    body: EventBody
    try:
        body = known_value(BODY, row.body, f"event {row.id}")
    except Unreadable as error:
        body = Message(level="warning", text=f"{row.type}: {error.message}")
    return Event(id=row.id, job=row.job, attempt=row.attempt, at=row.at, body=body)


def events_after(session: Session, job: str, *, after: int, limit: int) -> Sequence[EventRow]:
    """Up to `limit` events with ids above `after`, in order."""
    query = select(EventRow).where(EventRow.job == job, EventRow.id > after)
    return session.scalars(query.order_by(EventRow.id).limit(limit)).all()


def node_results(session: Session, job: str) -> dict[str, NodeResult]:
    """The latest result of each node of a job that has finished so far. Raises Unreadable."""
    query = (
        select(EventRow).where(EventRow.job == job, EventRow.type == "stage.finished").order_by(EventRow.id)
    )
    found: dict[str, NodeResult] = {}
    for row in session.scalars(query):
        body = known_value(BODY, row.body, f"event {row.id}")
        assert body.type == "stage.finished"
        found[body.result.node] = body.result
    return found
