"""Reads a safetensors file while it streams: 8 bytes of length, a JSON header, the tensors' bytes.

The header is checked as strictly as in the format's own reader: known types, lengths that follow
from the shapes, and tensors that cover the rest of the file without gaps or overlaps.
"""

import hashlib
import json
import math
import os
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import JsonValue

from pipeline.artifacts.tensor_index import TensorEntry
from pipeline.checkpoint.finite import FiniteCount
from pipeline.checkpoint.slices import slices_of
from pipeline.errors import UnsupportedCheckpoint

LENGTH_BYTES = 8
MAX_HEADER_BYTES = 100_000_000  # the format's own limit
BITS = {
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E5M2", "F8_E4M3", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ"), 8),
    **dict.fromkeys(("U16", "I16", "F16", "BF16"), 16),
    **dict.fromkeys(("U32", "I32", "F32"), 32),
    **dict.fromkeys(("U64", "I64", "F64", "C64"), 64),
    "F4": 4,
    "F6_E2M3": 6,
    "F6_E3M2": 6,
}


@dataclass(frozen=True)
class DescribedTensor:
    """One entry of a header. `offset` counts from the header's end."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    offset: int
    length: int


def read_header(path: Path) -> tuple[int, list[DescribedTensor]]:
    """Returns the number of bytes before a local file's tensors, and the tensors in the order of their bytes.
    Raises UnsupportedCheckpoint when they and the file do not agree."""
    with path.open("rb") as file:
        size = header_size(path.name, file.read(LENGTH_BYTES))
        header = file.read(size)
        if len(header) < size:
            raise broken(path.name, f"the header is cut after {len(header)} bytes")
        start, end = file.tell(), file.seek(0, os.SEEK_END)
    tensors = parse_header(path.name, header)
    expected = start + sum(tensor.length for tensor in tensors)
    if end != expected:
        raise broken(path.name, f"it has {end} bytes, and its header describes {expected}")
    return start, tensors


class TensorScan:
    """The content of one file. `entries` are complete when `through` has reached its end. `unread`: tensors
    that may hold NaN and infinity, because no model reads them. `sliced`: tensors whose
    slices have the entries, with their parts (slices.py)."""

    def __init__(
        self, path: str, *, unread: Collection[str] = (), sliced: Mapping[str, int] | None = None
    ) -> None:
        self.path = path
        self._sliced = sliced or {}
        self._unread = unread
        self.entries: dict[str, TensorEntry] = {}
        self._head = bytearray()
        self._header_size = 0
        self._waiting: list[DescribedTensor] | None = (
            None  # last comes next; None while the header is incomplete
        )
        self._digest = hashlib.sha256()
        self._finite = FiniteCount("")
        self._missing = 0  # bytes of the tensor that is being hashed

    def through(self, chunks: Iterable[bytes]) -> Iterator[bytes]:
        """Yields the same chunks. Raises UnsupportedCheckpoint, which names the file or the tensor, before
        the stream ends."""
        for chunk in chunks:
            rest = memoryview(chunk)
            if self._waiting is None:
                rest = self._take_header(rest)
            if self._waiting is not None:
                self._take_tensors(self._waiting, rest)
            yield chunk
        if self._waiting is None:
            raise broken(self.path, f"the header is cut after {len(self._head)} bytes")
        if self._waiting:
            raise broken(self.path, f"it ends inside of tensor {self._waiting[-1].name!r}")

    def _take_header(self, rest: memoryview) -> memoryview:
        """Returns the rest of a chunk after the header's part of it."""
        rest = self._fill(rest, LENGTH_BYTES)
        if len(self._head) < LENGTH_BYTES:
            return rest
        size = header_size(self.path, self._head[:LENGTH_BYTES])
        rest = self._fill(rest, LENGTH_BYTES + size)
        if len(self._head) < LENGTH_BYTES + size:
            return rest
        header = bytes(self._head[LENGTH_BYTES:])
        tensors = described_apart(parse_header(self.path, header), self._sliced)
        self._waiting = tensors[::-1]
        self._header_size = size
        self._begin(self._waiting)
        return rest

    def _fill(self, rest: memoryview, size: int) -> memoryview:
        taken = max(0, size - len(self._head))
        self._head += rest[:taken]
        return rest[taken:]

    def _take_tensors(self, waiting: list[DescribedTensor], rest: memoryview) -> None:
        while rest:
            if not waiting:
                raise broken(self.path, "there are bytes after its last tensor")
            part = rest[: self._missing]
            self._digest.update(part)
            self._finite.take(part)
            self._missing -= len(part)
            rest = rest[len(part) :]
            if not self._missing:
                self._finish(waiting.pop())
                self._begin(waiting)

    def _begin(self, waiting: list[DescribedTensor]) -> None:
        """Prepares for the next tensor that has bytes."""
        self._digest = hashlib.sha256()
        while waiting and not waiting[-1].length:
            self._finish(waiting.pop())
        self._missing = waiting[-1].length if waiting else 0
        self._finite = FiniteCount(waiting[-1].dtype if waiting else "")

    def _finish(self, tensor: DescribedTensor) -> None:
        nan, infinite = self._finite.nan, self._finite.infinite
        if tensor.length and nan + infinite and tensor.name not in self._unread:
            raise UnsupportedCheckpoint(
                f"{tensor.name} in {self.path} has {nan} NaN and {infinite} infinite values of "
                f"{math.prod(tensor.shape)}: the weights are broken; take an earlier checkpoint of their "
                f"training, or save them again in a type with a wider range (bfloat16, not float16)",
                "spec.model.source",
            )
        self.entries[tensor.name] = TensorEntry(
            file=self.path,
            start=LENGTH_BYTES + self._header_size + tensor.offset,
            length=tensor.length,
            dtype=tensor.dtype,
            shape=tensor.shape,
            sha256=self._digest.hexdigest(),
        )


def described_apart(tensors: Iterable[DescribedTensor], sliced: Mapping[str, int]) -> list[DescribedTensor]:
    """Returns the slices of the tensors among `sliced` in their places, and all others as they are."""
    found: list[DescribedTensor] = []
    for tensor in tensors:
        if tensor.name not in sliced or len(tensor.shape) < 2:
            found.append(tensor)
            continue
        slices = [*slices_of(tensor.name, tensor.shape, sliced[tensor.name])]
        each = tensor.length // len(slices)
        for number, (name, shape) in enumerate(slices):
            found.append(DescribedTensor(name, tensor.dtype, shape, tensor.offset + number * each, each))
    return found


def broken(path: str, reason: str) -> UnsupportedCheckpoint:
    """Returns the error for a file that is not what its name says."""
    return UnsupportedCheckpoint(
        f"{path} is no complete safetensors file: {reason}; download or save it again", "spec.model.source"
    )


def header_size(path: str, length: bytes | bytearray) -> int:
    """Returns the size of a header from the bytes in front of it. Raises UnsupportedCheckpoint."""
    if len(length) < LENGTH_BYTES:
        raise broken(path, f"the header is cut after {len(length)} bytes")
    size = int.from_bytes(length, "little")
    if not 2 <= size <= MAX_HEADER_BYTES:
        raise broken(path, f"a header of {size} bytes (2 to {MAX_HEADER_BYTES} are allowed)")
    return size


def parse_header(path: str, header: bytes) -> list[DescribedTensor]:
    """Returns the tensors of a header in the order of their bytes. Raises UnsupportedCheckpoint."""
    try:
        described = json.loads(header, object_pairs_hook=_without_duplicates)
    except (ValueError, RecursionError) as error:
        raise broken(path, f"its header is not JSON ({error})") from error
    if not isinstance(described, dict):
        raise broken(path, "its header is not a JSON object")
    tensors = [_tensor(path, name, entry) for name, entry in described.items() if name != "__metadata__"]
    tensors.sort(key=lambda tensor: (tensor.offset, tensor.length))
    end = 0
    for tensor in tensors:
        if tensor.offset != end:
            raise broken(path, f"tensor {tensor.name!r} begins at byte {tensor.offset}, expected {end}")
        end += tensor.length
    return tensors


def _tensor(path: str, name: str, entry: JsonValue) -> DescribedTensor:
    if not isinstance(entry, dict) or not {"dtype", "shape", "data_offsets"} <= entry.keys():
        raise broken(path, f"tensor {name!r} is described without dtype, shape or data_offsets")
    dtype, shape, offsets = entry["dtype"], _counts(entry["shape"]), _counts(entry["data_offsets"])
    if not isinstance(dtype, str) or dtype not in BITS:
        raise broken(path, f"tensor {name!r} has the unknown type {dtype!r}")
    if shape is None or offsets is None or len(offsets) != 2 or offsets[1] < offsets[0]:
        raise broken(
            path, f"tensor {name!r} has shape {entry['shape']} and data_offsets {entry['data_offsets']}"
        )
    length, bits = offsets[1] - offsets[0], math.prod(shape) * BITS[dtype]
    if length * 8 != bits:
        raise broken(path, f"tensor {name!r} of {list(shape)} {dtype} takes {bits / 8:g} bytes, not {length}")
    return DescribedTensor(name, dtype, shape, offsets[0], length)


def _counts(value: JsonValue) -> tuple[int, ...] | None:
    """Returns a list of natural numbers as a tuple, or None for anything else."""
    if not isinstance(value, list):
        return None
    counts = tuple(
        item for item in value if isinstance(item, int) and not isinstance(item, bool) and item >= 0
    )
    return counts if len(counts) == len(value) else None


def _without_duplicates(pairs: list[tuple[str, JsonValue]]) -> dict[str, JsonValue]:
    names = dict(pairs)
    if len(names) != len(pairs):
        raise ValueError("a name occurs twice")
    return names
