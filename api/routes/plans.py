"""POST /plans estimates a job without running it."""

from fastapi import APIRouter

from api.routes.answers import BODY
from api.routes.jobs import Request
from api.routes.requests import ServicesDep
from api.service.jobs import plans
from api.service.jobs.views import PlanView

router = APIRouter(tags=["jobs"])


@router.post("/plans", responses=BODY)
def preview_plan(services: ServicesDep, request: Request) -> PlanView:
    """The stages that a job would run, and which of them are stored already. Nothing is run."""
    return plans.preview(services, request)
