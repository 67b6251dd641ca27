"""Health, metrics and the schema of the spec."""

from typing import Any, Literal

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from sqlalchemy.exc import SQLAlchemyError

from api.errors import ApiError
from api.routes.access import check_by_hand
from api.routes.answers import refusals
from api.routes.requests import ServicesDep
from api.service.context import Services
from api.service.health import Check, Readiness, readiness
from pipeline.canonical import Frozen
from pipeline.request.schema import request_schema

router = APIRouter(tags=["service"])


class Alive(Frozen):
    """The answer of a process that is alive."""

    status: Literal["ok"] = "ok"


@router.get("/healthz")
async def alive() -> Alive:
    """Tells that the process answers, without asking database, storage or Ray."""
    return Alive()


@router.get("/readyz", responses={503: {"model": Readiness}})
def ready(services: ServicesDep, request: Request, response: Response) -> Readiness:
    """Tells whether database, storage and Ray answer. Why one does not is said to callers with a key alone,
    where SECATEUR_PROBES asks for keys."""
    state = readiness(services)
    response.status_code = 200 if state.ready else 503
    if state.ready or _may_see(services, request):
        return state
    return Readiness(ready=False, checks=tuple(Check(name=one.name, ok=one.ok) for one in state.checks))


@router.get(
    "/metrics",
    response_class=Response,
    responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}, **refusals(401, 403)},
)
def metrics(services: ServicesDep, request: Request) -> Response:
    """The metrics for Prometheus. They need a key where SECATEUR_PROBES asks for keys."""
    if services.settings.probes == "keys":
        check_by_hand(request, services)
    return Response(services.metrics.exposition(), media_type=CONTENT_TYPE_LATEST)


def _may_see(services: Services, request: Request) -> bool:
    if services.settings.probes == "open":
        return True
    try:
        check_by_hand(request, services)
    except (ApiError, SQLAlchemyError):  # without a database nobody has a key
        return False
    return True


@router.get("/schema/prune-spec", response_class=JSONResponse)
async def prune_spec_schema() -> dict[str, Any]:
    """The JSON Schema of the body of POST /jobs."""
    return request_schema()
