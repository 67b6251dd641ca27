"""The descriptions of error answers in OpenAPI."""

from http import HTTPStatus
from typing import Any

from api.errors import ErrorAnswer

Answers = dict[int | str, dict[str, Any]]


def refusals(*statuses: int) -> Answers:
    """The descriptions of answers with these statuses, and with 422."""
    return {status: _error(status) for status in sorted({*statuses, 422})}


def _error(status: int) -> dict[str, Any]:
    return {"model": ErrorAnswer, "description": HTTPStatus(status).phrase}


ABSENT = refusals(404)
CONFLICT = refusals(404, 409)
BODY = refusals(400, 413, 415)
KEYED: Answers = {status: _error(status) for status in (401, 403)}
