"""JSON Schemas of request bodies."""

from functools import cache
from typing import Any

from pydantic import BaseModel

from pipeline.request.prune_spec import JobRequest

DIALECT = "https://json-schema.org/draft/2020-12/schema"


@cache
def request_schema(model: type[BaseModel] = JobRequest) -> dict[str, Any]:
    """For editors, forms, generated clients and our own error messages; the body of POST /jobs unless another
    one is asked for. Not to be changed by whoever gets it."""
    return {"$schema": DIALECT, **model.model_json_schema()}
