"""JSON Schema of the body of POST /jobs."""

from functools import cache
from typing import Any

from pipeline.spec import JobRequest

DIALECT = "https://json-schema.org/draft/2020-12/schema"


@cache
def request_schema() -> dict[str, Any]:
    """For editors, forms and generated clients. Not to be changed by whoever gets it."""
    return {"$schema": DIALECT, **JobRequest.model_json_schema()}
