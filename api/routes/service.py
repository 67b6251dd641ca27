"""Health, metrics and the schema of the spec."""

from typing import Any, Literal

from fastapi import APIRouter, Response
from fastapi.responses import JSONResponse
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from api.routes.requests import ServicesDep
from api.service.health import Readiness, readiness
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
def ready(services: ServicesDep, response: Response) -> Readiness:
    """Tells whether database, storage and Ray answer."""
    state = readiness(services)
    response.status_code = 200 if state.ready else 503
    return state


@router.get(
    "/metrics",
    response_class=Response,
    responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
)
def metrics(services: ServicesDep) -> Response:
    """The metrics for Prometheus."""
    return Response(services.metrics.exposition(), media_type=CONTENT_TYPE_LATEST)


@router.get("/schema/prune-spec", response_class=JSONResponse)
async def prune_spec_schema() -> dict[str, Any]:
    """The JSON Schema of the body of POST /jobs."""
    return request_schema()
