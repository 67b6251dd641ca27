"""Schedules: standing orders that fire by cron, or when a checkpoint arrives."""

from typing import Annotated

from fastapi import APIRouter, Body, Path, Query, Response

from api.examples import SCHEDULE_EXAMPLES
from api.routes.answers import ABSENT, BODY, CONFLICT, refusals
from api.routes.requests import MAX_ID, Limit, ServicesDep
from api.service.schedules import schedules
from api.service.schedules.request import SCHEDULE_ID_PATTERN, SchedulePatch, ScheduleRequest
from api.service.schedules.views import FiringList, Outcome, ScheduleList, ScheduleView

router = APIRouter(tags=["schedules"])
Key = Annotated[
    str,
    Path(
        alias="id",
        pattern=r"^[^\x00/]{1,100}$",
        description="Id or name of a schedule.",
        examples=["nightly"],
    ),
]
Request = Annotated[ScheduleRequest, Body(openapi_examples=SCHEDULE_EXAMPLES)]


@router.post("/schedules", status_code=201, responses=BODY | refusals(409))
def create_schedule(services: ServicesDep, request: Request, response: Response) -> ScheduleView:
    """Store a schedule. It works from now on, unless it is paused."""
    view = schedules.create(services, request)
    response.headers["Location"] = f"/schedules/{view.id}"
    return view


@router.get("/schedules", responses=refusals())
def list_schedules(
    services: ServicesDep,
    paused: Annotated[bool | None, Query(description="Only those that are paused, or that are not.")] = None,
    after: Annotated[
        str | None, Query(pattern=SCHEDULE_ID_PATTERN, description="`next` of the page before.")
    ] = None,
    limit: Limit = 20,
) -> ScheduleList:
    """Schedules, newest first."""
    data, more = schedules.page(services, paused=paused, after=after, limit=limit)
    return ScheduleList(data=data, has_more=more, next=data[-1].id if more else None)


@router.get("/schedules/{id}", responses=ABSENT)
def show_schedule(services: ServicesDep, key: Key) -> ScheduleView:
    """One schedule, with what its last look found."""
    return schedules.view(services, key)


@router.patch("/schedules/{id}", responses=BODY | CONFLICT)
def change_schedule(services: ServicesDep, key: Key, patch: SchedulePatch) -> ScheduleView:
    """Replace fields, each as a whole; the outcome must be a valid schedule. Jobs that run go on."""
    return schedules.change(services, key, patch)


@router.delete("/schedules/{id}", status_code=204, responses=ABSENT)
def delete_schedule(services: ServicesDep, key: Key) -> None:
    """Delete a schedule with its history. Its jobs go on, and its alias stays where it is."""
    schedules.remove(services, key)


@router.post("/schedules/{id}/pause", responses=ABSENT)
def pause_schedule(services: ServicesDep, key: Key) -> ScheduleView:
    """Start nothing until it is resumed. Jobs that run go on, and are judged."""
    return schedules.pause(services, key, paused=True)


@router.post("/schedules/{id}/resume", responses=ABSENT)
def resume_schedule(services: ServicesDep, key: Key) -> ScheduleView:
    """Go on from now: moments of cron that passed while it was paused are not made up for."""
    return schedules.pause(services, key, paused=False)


@router.post("/schedules/{id}/run", status_code=202, responses=ABSENT | refusals(503))
def run_schedule(services: ServicesDep, key: Key) -> FiringList:
    """Fire now: cron's model, or every complete checkpoint that no job was made of, without a second look.

    None in the answer: there was nothing new. Nothing is skipped because an earlier job has not ended.
    """
    return FiringList(data=schedules.run_now(services, key), has_more=False, next=None)


@router.get("/schedules/{id}/firings", responses=ABSENT)
def list_firings(
    services: ServicesDep,
    key: Key,
    outcome: Annotated[Outcome | None, Query(description="Only firings that came to this.")] = None,
    after: Annotated[int | None, Query(ge=0, le=MAX_ID, description="`next` of the page before.")] = None,
    limit: Limit = 20,
) -> FiringList:
    """What a schedule has fired, newest first, with the verdicts of its gates."""
    data, more = schedules.history(services, key, outcome=outcome, after=after, limit=limit)
    return FiringList(data=data, has_more=more, next=data[-1].id if more else None)
