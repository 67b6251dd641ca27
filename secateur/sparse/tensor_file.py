"""Safetensors files as they lie on a disk: the header read as text, and tensors written at their places.

The safetensors library reads tensors one at a time, and writes only whole dictionaries. Here a file is
written with one tensor in memory.
"""

import json
import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Self

import torch
from torch import Tensor

from secateur.sparse.errors import SparseError

LENGTH_BYTES = 8
MOST_HEADER_BYTES = 100_000_000  # the format's own limit
METADATA = "__metadata__"
DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
DTYPE_NAMES = {dtype: name for name, dtype in DTYPES.items()}


@dataclass(frozen=True)
class Described:
    """A tensor in a header: its type by the format's name, its shape, and its first byte, counted from the
    end of the header."""

    dtype: str
    shape: tuple[int, ...]
    start: int

    @property
    def values(self) -> int:
        """The number of its values."""
        return math.prod(self.shape)

    @property
    def length(self) -> int:
        """The number of its bytes."""
        return self.values * DTYPES[self.dtype].itemsize


@dataclass(frozen=True)
class Header:
    """The header of a safetensors file. `text`: its bytes as they lie in the file. `tensors`: in the order of
    their bytes."""

    text: bytes
    metadata: Mapping[str, str]
    tensors: Mapping[str, Described]

    @property
    def file_bytes(self) -> int:
        """The size of a file with this header."""
        return LENGTH_BYTES + len(self.text) + sum(one.length for one in self.tensors.values())


def read_header(path: Path) -> Header:
    """Read the header of a file. Raises SparseError when it is no safetensors file, or not complete."""
    with path.open("rb") as file:
        start = file.read(LENGTH_BYTES)
        size = struct.unpack("<Q", start)[0] if len(start) == LENGTH_BYTES else 0
        if not 2 <= size <= MOST_HEADER_BYTES:
            raise SparseError(f"{path} is no safetensors file: its header has {size} bytes")
        header = parse_header(file.read(size), named=str(path))
    if path.stat().st_size != header.file_bytes:
        raise SparseError(
            f"{path} has {path.stat().st_size} bytes, and its header describes {header.file_bytes}; write or "
            f"download it again"
        )
    return header


def parse_header(text: bytes, *, named: str) -> Header:
    """Read the JSON of a header. `named`: what an error calls the file. Raises SparseError."""
    try:
        fields = json.loads(text)
        metadata = dict(fields.pop(METADATA, {}))
        tensors = {
            name: Described(one["dtype"], tuple(one["shape"]), one["data_offsets"][0])
            for name, one in sorted(fields.items(), key=lambda item: item[1]["data_offsets"])
        }
    except (ValueError, TypeError, KeyError, AttributeError, IndexError) as error:
        raise SparseError(f"the header of {named} cannot be read: {error!r}") from error
    end = 0
    for name, one in tensors.items():
        if one.dtype not in DTYPES:
            raise SparseError(f"tensor {name} of {named} has type {one.dtype}; allowed: {', '.join(DTYPES)}")
        if one.start != end:
            raise SparseError(f"tensor {name} of {named} begins at byte {one.start}, expected {end}")
        end += one.length
    return Header(text, metadata, tensors)


def header_of(tensors: Mapping[str, tuple[str, tuple[int, ...]]], metadata: Mapping[str, str]) -> Header:
    """The header of a new file with tensors of these types and shapes. Tensors with wide values come first,
    so that all lie aligned."""
    placed: dict[str, Described] = {}
    end = 0
    for name, (dtype, shape) in sorted(
        tensors.items(), key=lambda one: (-DTYPES[one[1][0]].itemsize, one[0])
    ):
        placed[name] = Described(dtype, shape, end)
        end += placed[name].length
    fields: dict[str, object] = {METADATA: dict(metadata)}
    for name, one in placed.items():
        offsets = [one.start, one.start + one.length]
        fields[name] = {"dtype": one.dtype, "shape": one.shape, "data_offsets": offsets}
    text = json.dumps(fields, separators=(",", ":")).encode()
    return Header(text + b" " * (-len(text) % 8), metadata, placed)


class TensorWriter:
    """Writes the file of a header, tensor by tensor in any order. A file that is not complete is deleted."""

    def __init__(self, path: Path, header: Header) -> None:
        self._path = path
        self._header = header
        self._missing = set(header.tensors)
        self._file: IO[bytes] = path.open("wb")

    def __enter__(self) -> Self:
        self._file.write(struct.pack("<Q", len(self._header.text)) + self._header.text)
        self._file.truncate(self._header.file_bytes)
        return self

    def write(self, name: str, tensor: Tensor) -> None:
        """Write one tensor."""
        one = self._header.tensors[name]
        found = (DTYPE_NAMES[tensor.dtype], tuple(tensor.shape))
        assert found == (one.dtype, one.shape), f"{name} was to be {one.dtype} {one.shape}, got {found}"
        self._file.seek(LENGTH_BYTES + len(self._header.text) + one.start)
        if tensor.numel():
            self._file.write(tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().data)
        self._missing.discard(name)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
        if kind is not None:
            self._path.unlink()
            return
        assert not self._missing, f"{self._path} lacks {sorted(self._missing)}"
