"""The route to which drivers report. It is not for users: each attempt has a token of its own."""

from typing import Annotated

from fastapi import APIRouter, Header, Path

from api.routes.answers import BODY, refusals
from api.routes.requests import MAX_INT, JobId, ServicesDep
from api.service.jobs.intake import Accepted, DriverEvents, take

router = APIRouter(tags=["internal"])
BEARER = "bearer "


@router.post("/internal/attempts/{id}/{attempt}/events", responses=BODY | refusals(401, 403, 404, 409, 410))
def report_events(
    services: ServicesDep,
    job_id: JobId,
    attempt: Annotated[int, Path(ge=1, le=MAX_INT)],
    events: DriverEvents,
    authorization: Annotated[str, Header()] = "",
) -> Accepted:
    """Store a batch of events; a repeat is harmless."""
    token = authorization[len(BEARER) :].strip() if authorization.lower().startswith(BEARER) else ""
    return take(services, job_id, attempt, token=token, events=events)
