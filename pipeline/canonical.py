"""Canonical JSON and digests: the only way in which this project computes hashes of values."""

import hashlib
import json
from collections.abc import Mapping

from pydantic import BaseModel, ConfigDict, JsonValue


class Frozen(BaseModel):
    """Base of all models that cross a process border: immutable; unknown fields and non-finite numbers are
    refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


def canonical_json(value: JsonValue | Mapping[str, JsonValue] | BaseModel) -> bytes:
    """Returns UTF-8 JSON with sorted keys, no spaces, and no NaN: equal values give equal bytes."""
    plain = value.model_dump(mode="json") if isinstance(value, BaseModel) else value
    return json.dumps(
        plain, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    ).encode()


def sha256_hex(data: bytes) -> str:
    """Returns the lower-case hexadecimal SHA-256 of some bytes."""
    return hashlib.sha256(data).hexdigest()


def digest_of(value: JsonValue | Mapping[str, JsonValue] | BaseModel) -> str:
    """Returns the digest of a value by its canonical JSON."""
    return sha256_hex(canonical_json(value))
