"""GET /jobs/{id}/events answers with a page of events, or with a stream that ends with the job."""

from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import APIRouter, Header, Query
from sse_starlette import EventSourceResponse, ServerSentEvent

from api.errors import ApiError
from api.routes.access import Who
from api.routes.answers import ABSENT, refusals
from api.routes.requests import MAX_ID, EventCursor, FollowersDep, JobId, Limit, ServicesDep
from api.service.jobs import jobs
from api.service.jobs.followers import Told
from api.service.jobs.journal import event_of, events_after
from api.service.jobs.views import EventList

router = APIRouter(tags=["jobs"])
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
    responses={**ABSENT, **refusals(429), 200: {"content": {STREAM: {"schema": MESSAGE}}}},
)
def list_events(
    services: ServicesDep,
    who: Who,
    followers: FollowersDep,
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
        followers.check_room()
        told = followers.follow(job_id, after=seen, key=who.prefix)
        return EventSourceResponse(_stream(told), ping=15)
    with services.database.read() as session:
        rows = events_after(session, job_id, after=seen, limit=limit + 1)
    page = tuple(event_of(row) for row in rows[:limit])
    return EventList(data=page, has_more=len(rows) > limit, next=page[-1].id if page else seen)


async def _stream(told: AsyncIterator[Told]) -> AsyncIterator[ServerSentEvent]:
    async for one in told:
        yield ServerSentEvent(id=str(one.id), event=one.type, data=one.data, sep="\n")


def _event_id(text: str) -> int:
    if text.isascii() and text.isdigit() and len(text) < 20 and int(text) <= MAX_ID:
        return int(text)
    raise ApiError(
        422, "invalid_parameter", f"Last-Event-ID got {text!r}; send the id of an event", "Last-Event-ID"
    )
