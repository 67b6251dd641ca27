"""Every error answer has one shape: {"error": {code, message, param, type}}."""

import logging
from collections.abc import Sequence
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from sqlalchemy.exc import InterfaceError, OperationalError
from starlette.exceptions import HTTPException

from api.submit import RayUnavailable
from pipeline.canonical import Frozen
from pipeline.errors import CorruptObject, InvalidRequest, ObjectNotFound, SecateurError, StorageError
from pipeline.request.hints import explained
from pipeline.request.prune_spec import JobRequest

log = logging.getLogger(__name__)

TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    409: "conflict_error",
    410: "conflict_error",
    429: "rate_limit_error",
}
HEADERS = {401: {"WWW-Authenticate": "Bearer"}, 429: {"Retry-After": "5"}}
SECRET_BODIES = frozenset({"/session"})  # error messages repeat nothing of these bodies
CODES = {405: "method_not_allowed", 404: "not_found", 400: "malformed_request", 415: "unsupported_media_type"}


class ErrorBody(Frozen):
    """An error. `code` is stable; `param` is the path of the field to change, if there is one."""

    code: str
    message: str
    param: str | None = None
    type: str


class ErrorAnswer(Frozen):
    """The body of every answer with a status from 400 upwards."""

    error: ErrorBody


class ApiError(Exception):
    """An error of HTTP: the resource does not exist, or its state does not allow the request."""

    def __init__(
        self, status: int, code: str, message: str, param: str | None = None, **details: int
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.param = param
        self.details = details


def install(app: FastAPI) -> None:
    """Register the handlers."""
    app.add_exception_handler(ApiError, _api_error)
    app.add_exception_handler(RequestValidationError, _validation_error)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(SecateurError, _secateur_error)
    app.add_exception_handler(RayUnavailable, _ray_error)
    app.add_exception_handler(OperationalError, _database_error)
    app.add_exception_handler(InterfaceError, _database_error)


def answer(
    status: int,
    code: str,
    message: str,
    *,
    param: str | None = None,
    headers: dict[str, str] | None = None,
    **details: int,
) -> JSONResponse:
    """An error answer. Text that is not valid Unicode (a lone surrogate in the request) is escaped."""
    kind = TYPES.get(status, "invalid_request_error" if status < 500 else "api_error")
    body = {"code": code, "message": _printable(message), "param": param and _printable(param), "type": kind}
    return JSONResponse({"error": {**body, **details}}, status_code=status, headers=headers)


def unexpected() -> JSONResponse:
    """The answer to an exception that no handler knows; the log has the details."""
    return answer(500, "internal_error", "something went wrong here; the log of the API has the details")


async def _api_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, ApiError)
    headers = HEADERS.get(error.status)
    return answer(
        error.status, error.code, error.message, param=error.param, headers=headers, **error.details
    )


async def _validation_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    problems: Sequence[dict[str, Any]] = error.errors()
    first = problems[0]
    if first["type"] == "json_invalid":
        position = first["loc"][-1]
        return answer(
            400, "malformed_json", f"the body is not JSON: {first['ctx']['error']} at character {position}"
        )
    if isinstance(error.body, bytes):
        got = request.headers.get("content-type") or "none"
        return answer(415, "unsupported_media_type", f"send Content-Type: application/json; got {got}")
    in_body = first["loc"][0] == "body"
    if request.url.path in SECRET_BODIES:
        problems = [{**problem, "input": {}} for problem in problems]
    model = _body_model(request)
    explanations = [explained(problem, error.body, model=model) for problem in problems[:5]]
    more = f"\n... and {len(problems) - 5} more" if len(problems) > 5 else ""
    return answer(
        422,
        "invalid_spec" if in_body else "invalid_parameter",
        "\n".join(message for _, message in explanations) + more,
        param=explanations[0][0] or None,
    )


async def _http_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    code = CODES.get(error.status_code, HTTPStatus(error.status_code).phrase.lower().replace(" ", "_"))
    messages = {
        400: "the body could not be read: it must be JSON in UTF-8",
        404: f"there is nothing at {request.url.path}",
        405: f"{request.method} is not possible at {request.url.path}",
    }
    headers = dict(error.headers) if error.headers else None
    message = messages.get(error.status_code, str(error.detail))
    return answer(error.status_code, code, message, headers=headers)


async def _secateur_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, SecateurError)
    match error:
        case InvalidRequest():
            status = 422
        case ObjectNotFound():
            status = 404
        case StorageError():
            status = 500 if isinstance(error, CorruptObject) else 503
            log.error("%s %s: %s", request.method, request.url.path, error.message)
        case _:
            status = 500
            log.error("%s %s", request.method, request.url.path, exc_info=error)
    return answer(status, error.code, error.message, param=error.param)


async def _ray_error(request: Request, error: Exception) -> JSONResponse:
    log.warning("%s %s: %s", request.method, request.url.path, error)
    message = "the Ray cluster does not answer; try again"
    return answer(503, "ray_unavailable", message, headers={"Retry-After": "5"})


async def _database_error(request: Request, error: Exception) -> JSONResponse:
    log.error("%s %s: %s", request.method, request.url.path, error)
    message = "the database does not answer; try again"
    return answer(503, "database_unavailable", message, headers={"Retry-After": "5"})


def _body_model(request: Request) -> type[BaseModel]:
    """The model that the route parses its body into."""
    field = getattr(request.scope.get("route"), "body_field", None)
    model = field.field_info.annotation if field is not None else None
    return model if isinstance(model, type) and issubclass(model, BaseModel) else JobRequest


def _printable(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode()
