"""Requests for jobs whose sources do not exist."""

from typing import Any

MODEL = "file:/models/tiny"


def body(*, model: str = MODEL, **beside: Any) -> dict[str, Any]:
    """A small valid request."""
    prune = {"method": {"kind": "magnitude"}, "pattern": {"kind": "unstructured", "sparsity": 0.5}}
    return {"spec": {"model": {"source": model}, "prune": prune}, **beside}
