"""JSON Schemas of request bodies."""

from functools import cache
from typing import Any

from pydantic import BaseModel

from pipeline.request.prune_spec import JobRequest

DIALECT = "https://json-schema.org/draft/2020-12/schema"


@cache
def request_schema(model: type[BaseModel] = JobRequest) -> dict[str, Any]:
    """The JSON Schema of a model, by default the body of POST /jobs. Editors, forms, generated clients and
    error messages use it. It is cached, so callers must not change it."""
    return {"$schema": DIALECT, **model.model_json_schema()}
