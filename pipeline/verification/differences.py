"""Says where two files differ, in the words of their format: a tensor, a field or a line."""

import json
import math
from pathlib import Path

import torch
from pydantic import JsonValue

from pipeline.checkpoint.reader import DTYPES
from pipeline.checkpoint.scan import DescribedTensor, read_header
from pipeline.errors import UnsupportedCheckpoint
from pipeline.storage.base import CHUNK_BYTES

SHOWN = 80  # characters of a value in a message


def first_difference(expected: Path, found: Path) -> str:
    """Describes the first difference of two files that are not equal, as the rest of a sentence about
    `found`."""
    if not found.stat().st_size:
        return f"it is empty, and had {expected.stat().st_size} bytes"
    if expected.suffix == ".safetensors":
        return _tensors(expected, found)
    if expected.suffix == ".json":
        return _json(expected, found)
    return _lines(expected.read_bytes(), found.read_bytes())


def differing_field(expected: JsonValue, found: JsonValue, *, at: str = "") -> str | None:
    """Describes the first field that differs between two JSON values; None where they are equal. `at`: the
    path of the values."""
    if isinstance(expected, dict) and isinstance(found, dict):
        for name in (*expected, *(name for name in found if name not in expected)):
            path = f"{at}.{name}" if at else name
            if name not in found:
                return f"field {path} is missing, and was {_shown(expected[name])}"
            if name not in expected:
                return f"field {path} is {_shown(found[name])}, and was not there"
            inner = differing_field(expected[name], found[name], at=path)
            if inner is not None:
                return inner
        return None
    if isinstance(expected, list) and isinstance(found, list) and len(expected) == len(found):
        pairs = enumerate(zip(expected, found, strict=True))
        every = (differing_field(one, other, at=f"{at}.{i}") for i, (one, other) in pairs)
        return next((one for one in every if one is not None), None)
    if type(expected) is type(found) and expected == found:
        return None
    return f"field {at} is {_shown(found)}, and was {_shown(expected)}"


def _json(expected: Path, found: Path) -> str:
    try:
        value = json.loads(found.read_bytes())
    except ValueError as error:
        return f"it is not JSON: {error}"
    field = differing_field(json.loads(expected.read_bytes()), value)
    return field or "it has the same fields in another order or spacing"


def _lines(expected: bytes, found: bytes) -> str:
    pairs = zip(expected.splitlines(), found.splitlines(), strict=False)
    for number, (one, other) in enumerate(pairs, start=1):
        if one != other:
            return f"line {number} is {_shown(other.decode(errors='replace'))}"
    return f"it has {len(found)} bytes, and had {len(expected)}"


def _shown(value: JsonValue) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}…"


def _tensors(expected: Path, found: Path) -> str:
    start, tensors = read_header(expected)
    try:
        other_start, others = read_header(found)
    except UnsupportedCheckpoint as error:
        size = found.stat().st_size
        cut = next((one.name for one in tensors if start + one.offset + one.length > size), None)
        inside = f" (tensor {cut} is cut)" if cut is not None else ""
        return f"{error.message.partition(': ')[2].partition(';')[0]}{inside}"
    by_name = {one.name: one for one in others}
    for one in tensors:
        other = by_name.pop(one.name, None)
        if other is None:
            return f"tensor {one.name} is missing"
        if (one.dtype, one.shape) != (other.dtype, other.shape):
            return (
                f"tensor {one.name} is {other.dtype} {list(other.shape)}, and was {one.dtype} "
                f"{list(one.shape)}"
            )
        at = _first_byte(expected, start + one.offset, found, other_start + other.offset, length=one.length)
        if at is not None:
            return _changed(one, expected, start + one.offset, found, other_start + other.offset, at=at)
    if by_name:
        return f"tensor {next(iter(by_name))} is there, and was not"
    return "it has the same tensors under another header"


def _first_byte(expected: Path, start: int, found: Path, other_start: int, *, length: int) -> int | None:
    with expected.open("rb") as one, found.open("rb") as other:
        one.seek(start)
        other.seek(other_start)
        for done in range(0, length, CHUNK_BYTES):
            size = min(CHUNK_BYTES, length - done)
            ours, theirs = one.read(size), other.read(size)
            if ours != theirs:
                return done + next(i for i in range(size) if ours[i] != theirs[i])
    return None


def _changed(
    tensor: DescribedTensor, expected: Path, start: int, found: Path, other_start: int, *, at: int
) -> str:
    """Names the position of the value that holds byte `at` of a tensor, with both values."""
    size = tensor.length // max(1, math.prod(tensor.shape))
    value = at // max(1, size)
    position = [int(i) for i in torch.unravel_index(torch.tensor(value), tensor.shape)]
    if tensor.dtype not in DTYPES:
        return f"tensor {tensor.name} has another value at {position}"
    was, now = (
        _value(path, where + value * size, size, tensor.dtype)
        for path, where in ((expected, start), (found, other_start))
    )
    return f"tensor {tensor.name} is {now:.6g} at {position}, and was {was:.6g}"


def _value(path: Path, at: int, size: int, dtype: str) -> float:
    with path.open("rb") as file:
        file.seek(at)
        return float(torch.frombuffer(bytearray(file.read(size)), dtype=DTYPES[dtype]).item())
