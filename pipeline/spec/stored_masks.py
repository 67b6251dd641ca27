"""The masks that other jobs published, as parts of a spec."""

from typing import Literal

from pydantic import Field

from pipeline.canonical import Frozen
from pipeline.spec.uri import MasksUri


class StoredMasks(Frozen):
    """The masks of another job, even if they were edited since: `masks/masks.safetensors` of a published
    checkpoint (`file:` or `s3:`), for the same shapes and pattern."""

    kind: Literal["stored"] = "stored"
    source: MasksUri


class NamedMasks(Frozen):
    """Stored masks to compare with, such as those of another domain. `name`: their name in the report."""

    name: str = Field(min_length=1, max_length=40)
    source: MasksUri
