"""The routes for schedules: standing orders that fire by cron, or when a checkpoint arrives."""

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
    """Store a schedule. It is active from now on, unless it is paused."""
    view = schedules.create(services, request)
    response.headers["Location"] = f"/schedules/{view.id}"
    return view


@router.get("/schedules", responses=refusals())
def list_schedules(
    services: ServicesDep,
    paused: Annotated[
        bool | None, Query(description="`true`: only paused ones; `false`: only the others.")
    ] = None,
    after: Annotated[
        str | None, Query(pattern=SCHEDULE_ID_PATTERN, description="`next` of the page before.")
    ] = None,
    limit: Limit = 20,
) -> ScheduleList:
    """Schedules, newest first."""
    return schedules.page(services, paused=paused, after=after, limit=limit)


@router.get("/schedules/{id}", responses=ABSENT)
def show_schedule(services: ServicesDep, key: Key) -> ScheduleView:
    """One schedule, with the checkpoints that its last look found."""
    return schedules.view(services, key)


@router.patch("/schedules/{id}", responses=BODY | CONFLICT)
def change_schedule(services: ServicesDep, key: Key, patch: SchedulePatch) -> ScheduleView:
    """Replace fields, each as a whole; the result must be a valid schedule. Running jobs continue."""
    return schedules.change(services, key, patch)


@router.delete("/schedules/{id}", status_code=204, responses=ABSENT)
def delete_schedule(services: ServicesDep, key: Key) -> None:
    """Delete a schedule with its history. Its jobs continue, and its alias stays where it is."""
    schedules.remove(services, key)


@router.post("/schedules/{id}/pause", responses=ABSENT)
def pause_schedule(services: ServicesDep, key: Key) -> ScheduleView:
    """Start nothing until it is resumed. Running jobs continue, and their gates are checked."""
    return schedules.pause(services, key, paused=True)


@router.post("/schedules/{id}/resume", responses=ABSENT)
def resume_schedule(services: ServicesDep, key: Key) -> ScheduleView:
    """Continue from now. Moments of cron that passed while it was paused are not made up for."""
    return schedules.pause(services, key, paused=False)


@router.post("/schedules/{id}/run", status_code=202, responses=ABSENT | refusals(503))
def run_schedule(services: ServicesDep, key: Key) -> FiringList:
    """Fire now, for cron's model or for every complete checkpoint without a job, without a second look.

    An empty answer means that there was nothing new. Nothing is skipped because an earlier job still runs.
    """
    return FiringList(data=schedules.run_now(services, key), has_more=False, next=None)


@router.get("/schedules/{id}/firings", responses=ABSENT)
def list_firings(
    services: ServicesDep,
    key: Key,
    outcome: Annotated[Outcome | None, Query(description="Only firings with this outcome.")] = None,
    after: Annotated[int | None, Query(ge=0, le=MAX_ID, description="`next` of the page before.")] = None,
    limit: Limit = 20,
) -> FiringList:
    """The firings of a schedule, newest first, with the verdicts of its gates."""
    data, more = schedules.history(services, key, outcome=outcome, after=after, limit=limit)
    return FiringList(data=data, has_more=more, next=data[-1].id if more else None)
