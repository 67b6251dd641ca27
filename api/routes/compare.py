"""GET /compare puts the results of jobs side by side."""

from typing import Annotated

from fastapi import APIRouter, Query

from api.routes.answers import CONFLICT
from api.routes.requests import EXAMPLE_ID, ServicesDep
from api.service.ids import JOB_ID_PATTERN
from api.service.jobs import compare
from api.service.jobs.views import ComparisonView

router = APIRouter(tags=["jobs"])
JobIds = Annotated[
    list[Annotated[str, Query(pattern=JOB_ID_PATTERN)]],
    Query(
        alias="job",
        min_length=2,
        max_length=8,
        description="Ids of finished jobs; differences are to the first.",
        examples=[[EXAMPLE_ID, f"{EXAMPLE_ID[:-1]}u"]],
    ),
]


@router.get("/compare", responses=CONFLICT)
def compare_jobs(services: ServicesDep, jobs: JobIds) -> ComparisonView:
    """The figures of two to eight jobs, with paired differences. Figures under unequal contracts are refused
    with 409, which names the fields."""
    return compare.compare(services, jobs)
