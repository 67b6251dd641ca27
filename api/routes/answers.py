"""How errors are described in OpenAPI."""

from http import HTTPStatus
from typing import Any

from api.errors import ErrorAnswer

Answers = dict[int | str, dict[str, Any]]


def refusals(*statuses: int) -> Answers:
    """Answers with an error."""
    return {
        status: {"model": ErrorAnswer, "description": HTTPStatus(status).phrase}
        for status in sorted({*statuses, 422})
    }


ABSENT = refusals(404)
CONFLICT = refusals(404, 409)
BODY = refusals(400, 413, 415)
