"""POST /jobs, and the other routes for a job as a whole."""

from typing import Annotated

from fastapi import APIRouter, Body, Query, Response

from api.errors import ApiError
from api.examples import REQUEST_EXAMPLES
from api.routes.answers import ABSENT, BODY, CONFLICT, refusals
from api.routes.requests import IdempotencyKey, JobCursor, JobId, Limit, Moment, ServicesDep
from api.service.jobs import jobs
from api.service.jobs.present import job_view
from api.service.jobs.views import JobList, JobView
from pipeline.job.state import Status
from pipeline.request.prune_spec import JobRequest

router = APIRouter(tags=["jobs"])
Request = Annotated[JobRequest, Body(openapi_examples=REQUEST_EXAMPLES)]


@router.post("/jobs", status_code=202, responses=BODY | refusals(409))
def submit_job(
    services: ServicesDep, request: Request, response: Response, key: IdempotencyKey = None
) -> JobView:
    """Accept a job. Its sources are pinned now, and it runs when there is room."""
    job = jobs.submit(services, request, idempotency_key=key)
    response.headers["Location"] = f"/jobs/{job.id}"
    return job_view(job)


@router.get("/jobs", responses=refusals())
def list_jobs(
    services: ServicesDep,
    status: Annotated[Status | None, Query(description="Only jobs of this status.")] = None,
    label: Annotated[
        tuple[str, ...], Query(description="`key:value`; a job must have all of them.", max_length=32)
    ] = (),
    model: Annotated[
        str | None,
        Query(max_length=1000, pattern=r"^[^\x00]*$", description="A part of the model's source."),
    ] = None,
    created_after: Moment = None,
    created_before: Moment = None,
    after: JobCursor = None,
    limit: Limit = 20,
) -> JobList:
    """Jobs, newest first."""
    filters = jobs.Filters(
        status=status,
        labels=tuple(_label(text) for text in label),
        model=model,
        created_after=created_after,
        created_before=created_before,
    )
    rows, more = jobs.page(services, filters, after=after, limit=limit)
    return JobList(
        data=tuple(job_view(row) for row in rows), has_more=more, next=rows[-1].id if more else None
    )


@router.get("/jobs/{id}", responses=ABSENT)
def show_job(services: ServicesDep, job_id: JobId) -> JobView:
    """One job."""
    return job_view(jobs.find(services, job_id))


@router.post("/jobs/{id}/cancel", responses=CONFLICT)
def cancel_job(services: ServicesDep, job_id: JobId) -> JobView:
    """Stop a job. One that runs is `cancelling` until Ray has stopped it."""
    return job_view(jobs.cancel(services, job_id))


@router.post("/jobs/{id}/retry", responses=CONFLICT)
def retry_job(services: ServicesDep, job_id: JobId) -> JobView:
    """Queue a failed or cancelled job again. It uses the stages and blocks that it has stored."""
    return job_view(jobs.retry(services, job_id))


@router.post("/jobs/{id}/reproduce", status_code=202, responses=CONFLICT)
def reproduce_job(services: ServicesDep, job_id: JobId, response: Response) -> JobView:
    """Do the work of a succeeded job again, from its pinned sources and without any stored result. The report
    of the new job says whether all artifacts are identical, else which stage and tensor differ first."""
    job = jobs.reproduce(services, job_id)
    response.headers["Location"] = f"/jobs/{job.id}"
    return job_view(job)


def _label(text: str) -> tuple[str, str]:
    key, colon, value = text.partition(":")
    if not colon or not key or not value or "\x00" in text:
        raise ApiError(
            422, "invalid_parameter", f"label got {text!r}; write key:value, such as team:serving", "label"
        )
    return key, value
