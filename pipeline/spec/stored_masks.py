"""Masks that other jobs published, as parts of a spec."""

from typing import Literal

from pydantic import Field

from pipeline.canonical import Frozen
from pipeline.spec.uri import MasksUri


class StoredMasks(Frozen):
    """The masks of another job, or what became of them elsewhere: `masks/masks.safetensors` of a published
    checkpoint (`file:` or `s3:`), for the same shapes and pattern."""

    kind: Literal["stored"] = "stored"
    source: MasksUri


class NamedMasks(Frozen):
    """Stored masks to compare with, of another domain for instance. `name`: what the report calls them."""

    name: str = Field(min_length=1, max_length=40)
    source: MasksUri
