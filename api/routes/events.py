"""GET /jobs/{id}/events answers with a page of events, or with a stream that ends with the job."""

import asyncio
from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import APIRouter, Header, Query
from fastapi.concurrency import run_in_threadpool
from sse_starlette import EventSourceResponse, ServerSentEvent

from api.db.models import EventRow
from api.errors import ApiError
from api.routes.answers import ABSENT
from api.routes.requests import MAX_ID, EventCursor, JobId, Limit, ServicesDep
from api.service.context import Services
from api.service.jobs import jobs
from api.service.jobs.journal import event_of, events_after
from api.service.jobs.views import EventList
from pipeline.job.state import TERMINAL

router = APIRouter(tags=["jobs"])
POLL_SECONDS = 0.5
BATCH = 500
STREAM = "text/event-stream"

MESSAGE = {
    "type": "object",
    "description": "`id` is the event's id, for Last-Event-ID; `event` its type; `data` the event as JSON.",
    "properties": {name: {"type": "string"} for name in ("id", "event", "data")},
    "required": ["id", "event", "data"],
}


@router.get(
    "/jobs/{id}/events",
    response_model=EventList,
    responses={**ABSENT, 200: {"content": {STREAM: {"schema": MESSAGE}}}},
)
def list_events(
    services: ServicesDep,
    job_id: JobId,
    after: EventCursor = None,
    limit: Limit = 100,
    accept: Annotated[str, Header(description=f"`{STREAM}` follows the job until it ends.")] = "",
    last_event_id: Annotated[str, Header(description="A stream continues after this event.")] = "",
    follow: Annotated[bool, Query(description="The same as asking for a stream by Accept.")] = False,
) -> EventList | EventSourceResponse:
    """The events of a job, as a page or as a stream."""
    jobs.find(services, job_id)
    seen = after if after is not None else 0
    if follow or STREAM in accept:
        if last_event_id:
            seen = _event_id(last_event_id)
        return EventSourceResponse(_stream(services, job_id, after=seen), ping=15)
    with services.database.read() as session:
        rows = events_after(session, job_id, after=seen, limit=limit + 1)
    page = tuple(event_of(row) for row in rows[:limit])
    return EventList(data=page, has_more=len(rows) > limit, next=page[-1].id if page else seen)


async def _stream(services: Services, job_id: str, *, after: int) -> AsyncIterator[ServerSentEvent]:
    """Sends all events above `after`, then new ones until the job has ended and everything is sent."""
    while True:
        rows, ended = await run_in_threadpool(_look, services, job_id, after)
        for row in rows:
            after = row.id
            yield ServerSentEvent(
                id=str(row.id), event=row.type, data=event_of(row).model_dump_json(), sep="\n"
            )
        if ended and not rows:
            return
        if not rows:
            await asyncio.sleep(POLL_SECONDS)


def _look(services: Services, job_id: str, after: int) -> tuple[list[EventRow], bool]:
    with services.database.read() as session:  # status first: the events that led to it are stored with it
        ended = jobs.status_of(session, job_id) in TERMINAL
        return list(events_after(session, job_id, after=after, limit=BATCH)), ended


def _event_id(text: str) -> int:
    if text.isascii() and text.isdigit() and len(text) < 20 and int(text) <= MAX_ID:
        return int(text)
    raise ApiError(
        422, "invalid_parameter", f"Last-Event-ID got {text!r}; send the id of an event", "Last-Event-ID"
    )
