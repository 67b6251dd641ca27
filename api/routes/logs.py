"""GET /jobs/{id}/logs sends the log of a job's driver."""

from typing import Annotated

from fastapi import APIRouter, Query
from fastapi.responses import Response, StreamingResponse

from api.routes.answers import ABSENT, refusals
from api.routes.requests import AttemptNumber, JobId, ServicesDep, TailsDep
from api.service.jobs.logs import read_log

router = APIRouter(tags=["jobs"])


@router.get(
    "/jobs/{id}/logs",
    response_class=Response,
    responses={
        **ABSENT,
        200: {"content": {"text/plain": {"schema": {"type": "string"}}}},
        **refusals(429, 503),
    },
)
def show_log(
    services: ServicesDep,
    tails: TailsDep,
    job_id: JobId,
    attempt: AttemptNumber = None,
    follow: Annotated[bool, Query(description="Continue until the job has ended.")] = False,
) -> StreamingResponse:
    """The output of the driver, from Ray while it runs and from storage afterwards."""
    if follow:
        tails.check(services, job_id, attempt=attempt)
        content = tails.follow(services, job_id, attempt=attempt)
        return StreamingResponse(content, media_type="text/plain; charset=utf-8")
    return StreamingResponse(
        read_log(services, job_id, attempt=attempt), media_type="text/plain; charset=utf-8"
    )
