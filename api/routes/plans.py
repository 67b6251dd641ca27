"""POST /plans."""

from fastapi import APIRouter

from api.routes.answers import BODY
from api.routes.jobs import Request
from api.routes.requests import ServicesDep
from api.service.jobs import plans
from api.service.jobs.views import PlanView

router = APIRouter(tags=["jobs"])


@router.post("/plans", responses=BODY)
def preview_plan(services: ServicesDep, request: Request) -> PlanView:
    """What a job would do and what of it is stored already. Nothing is run."""
    return plans.preview(services, request)
