"""Files of packed weights: safetensors in which each pruned matrix lies as bits and values.

    NAME.bits    uint8 [rows, ceil(columns / 8)]   bit j % 8 of byte j // 8: there is one in column j
    NAME.values  float32 | bfloat16 | int8 [nnz]   the values row by row
    NAME.scales  float32 [rows, groups]            int8 only: what a value of a row and group is multiplied by
    NAME         any other tensor, as it was

The file's metadata has `format`, `format_version`, `values`, `group` (columns that share a scale, 0 where
there are no scales), `lossless` ("true" if `unpack_file` gives every bit back), and `header`: the header of
the ordinary file, from which its tensors' types and shapes are known, and the file itself can be made again
byte by byte. docs/sparse.md describes the format for readers in other languages.

Memory holds one tensor at a time.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal, get_args

import torch
from safetensors import safe_open
from torch import Tensor

from secateur.sparse.errors import SparseError
from secateur.sparse.packed import GROUP, Packed, pack
from secateur.sparse.tensor_file import (
    DTYPE_NAMES,
    DTYPES,
    Described,
    Header,
    TensorWriter,
    header_of,
    parse_header,
    read_header,
)

Values = Literal["float32", "bf16", "int8"]
VALUES: tuple[Values, ...] = get_args(Values)
TYPES: dict[Values, torch.dtype] = {"float32": torch.float32, "bf16": torch.bfloat16, "int8": torch.int8}
FORMAT, VERSION = "secateur-sparse", "1"
BITS, PACKED_VALUES, SCALES = ".bits", ".values", ".scales"
LEAST_ZEROS = 0.1  # a matrix with a smaller share of zeros was not pruned, and stays as it is
FLOATS = ("F32", "BF16", "F16")
AS_INTEGERS = {torch.float32: torch.int32, torch.bfloat16: torch.int16, torch.float16: torch.int16}


@dataclass(frozen=True)
class PackedFile:
    """What `pack_file` wrote. `packed`, `tensors`: matrices that are packed, and tensors in all.
    `dense_bytes`, `sparse_bytes`: sizes of both files. `lossless`: True if the ordinary file comes back to
    the bit."""

    packed: int
    tensors: int
    dense_bytes: int
    sparse_bytes: int
    lossless: bool


def pack_file(source: Path, target: Path, *, values: Values, group: int | None = None) -> PackedFile:
    """Write the tensors of the safetensors file `source` into the new file `target`.

    A matrix in a floating-point type is packed if a tenth of it or more is zero, and it becomes smaller by
    that. A value is what has bits other than those of +0. `group`: columns that share a scale, for int8; a
    multiple of 64, by default 128. Reads every tensor twice, because its count of values must be known before
    the first byte is written. Raises SparseError for a file that cannot be read, or is packed already.
    """
    dense = read_header(source)
    if dense.metadata.get("format") == FORMAT:
        raise SparseError(f"{source} is packed already; unpack it first to get other values")
    dtype, group = TYPES[values], (group or GROUP) if values == "int8" else None
    with safe_open(source, framework="pt") as tensors:
        parts: dict[str, tuple[str, tuple[int, ...]]] = {}
        packed: set[str] = set()
        lossless = True
        for name, one in dense.tensors.items():
            own = _parts(name, one, tensors.get_tensor(name), dtype, group) if _may_pack(one) else None
            if own is None:
                parts[name] = (one.dtype, one.shape)
                continue
            if clash := own.keys() & dense.tensors.keys():
                raise SparseError(
                    f"{source} has a tensor {min(clash)}, which is the name of a part of {name}"
                )
            parts |= own
            packed.add(name)
            lossless = lossless and _keeps_bits(tensors.get_tensor(name), dtype)
        metadata = {
            "format": FORMAT,
            "format_version": VERSION,
            "values": values,
            "group": str(group or 0),
            "lossless": str(lossless).lower(),
            "header": dense.text.decode(),
        }
        header = header_of(parts, metadata)
        with TensorWriter(target, header) as writer:
            for name in dense.tensors:
                tensor = tensors.get_tensor(name)
                if name not in packed:
                    writer.write(name, tensor)
                    continue
                made = _made(name, tensor, dtype, group, source)
                writer.write(name + BITS, made.bits)
                writer.write(name + PACKED_VALUES, made.values)
                if made.scales is not None:
                    writer.write(name + SCALES, made.scales)
    return PackedFile(len(packed), len(dense.tensors), dense.file_bytes, header.file_bytes, lossless)


def unpack_file(source: Path, target: Path, *, lossy: bool = False) -> None:
    """Write the ordinary safetensors file that the packed file `source` was made of. Raises SparseError where
    not every bit comes back, unless `lossy`."""
    file = SparseFile(source)
    if not (file.lossless or lossy):
        raise SparseError(
            f"{source} has {file.values} values, from which the ordinary weights do not come back to the "
            f"bit; with --lossy you get them as near as these values are"
        )
    with TensorWriter(target, file.dense) as writer:
        for name in file.dense.tensors:
            writer.write(name, file.tensor(name))


class SparseFile:
    """A packed file that is read a tensor at a time. `dense`: the header of the ordinary file. Raises
    SparseError for another file, and for parts that do not fit each other."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._header = read_header(path)
        metadata = self._header.metadata
        if metadata.get("format") != FORMAT:
            raise SparseError(f"{path} is no file of packed weights; `secateur pack` makes one")
        if metadata.get("format_version") != VERSION:
            raise SparseError(
                f"{path} has format version {metadata.get('format_version')!r}, and this Secateur reads "
                f"{VERSION}"
            )
        values = metadata.get("values")
        if values not in TYPES:
            raise SparseError(f"{path} has values {values!r}; allowed: {', '.join(VALUES)}")
        self.values: Values = next(one for one in VALUES if one == values)
        self.lossless = metadata.get("lossless") == "true"
        self.dense: Header = parse_header(
            metadata.get("header", "").encode(), named=f"the ordinary file in {path}"
        )
        self._group = int(metadata.get("group", "0")) or None
        self._check_parts()

    @cached_property
    def packed_names(self) -> frozenset[str]:
        """The names of the packed matrices."""
        return frozenset(name for name in self.dense.tensors if name not in self._header.tensors)

    @property
    def file_bytes(self) -> int:
        """The size of the file."""
        return self._header.file_bytes

    def packed(self, name: str) -> Packed:
        """One packed matrix. Raises SparseError when its bits and its values do not agree."""
        rows, columns = self.dense.tensors[name].shape
        scales = self._get(name + SCALES) if self.values == "int8" else None
        try:
            return Packed(
                shape=(rows, columns),
                bits=self._get(name + BITS),
                values=self._get(name + PACKED_VALUES),
                scales=scales,
                group=self._group,
            )
        except ValueError as error:
            raise SparseError(f"{name} in {self.path}: {error}") from error

    def tensor(self, name: str) -> Tensor:
        """One tensor of the ordinary file, in its type and shape there."""
        if name not in self.packed_names:
            return self._get(name)
        return self.packed(name).dense().to(DTYPES[self.dense.tensors[name].dtype])

    def _get(self, name: str) -> Tensor:
        with safe_open(self.path, framework="pt") as tensors:
            found: Tensor = tensors.get_tensor(name)
        return found

    def _check_parts(self) -> None:
        """Check that the header describes each tensor of the ordinary file once, and nothing else."""
        expected: dict[str, tuple[str, tuple[int, ...]]] = {}
        for name, one in self.dense.tensors.items():
            if name in self._header.tensors:
                expected[name] = (one.dtype, one.shape)
                continue
            values = self._header.tensors.get(name + PACKED_VALUES)
            expected |= _described(
                name, one, self.values, self._group, 0 if values is None else values.values
            )
        found = {name: (one.dtype, one.shape) for name, one in self._header.tensors.items()}
        for name in sorted(expected.keys() | found.keys()):
            if expected.get(name) != found.get(name):
                raise SparseError(
                    f"tensor {name} of {self.path} is {found.get(name, 'not there')}, and should be "
                    f"{expected.get(name, 'not there')}"
                )


def value_count(weight: Tensor) -> int:
    """The number of values of a floating-point tensor: of what has other bits than +0."""
    return int(torch.count_nonzero(weight.view(AS_INTEGERS[weight.dtype])))


def _may_pack(one: Described) -> bool:
    return one.dtype in FLOATS and len(one.shape) == 2 and one.values > 0


def _parts(
    name: str, one: Described, tensor: Tensor, dtype: torch.dtype, group: int | None
) -> Mapping[str, tuple[str, tuple[int, ...]]] | None:
    """The parts of a matrix by name, or None where it is not packed."""
    count = value_count(tensor)
    if count > (1 - LEAST_ZEROS) * one.values:
        return None
    values: Values = next(key for key, value in TYPES.items() if value == dtype)
    parts = _described(name, one, values, group, count)
    size = sum(math.prod(shape) * DTYPES[kind].itemsize for kind, shape in parts.values())
    return parts if size < one.length else None


def _described(
    name: str, one: Described, values: Values, group: int | None, count: int
) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Type and shape of each part of a matrix with `count` values."""
    rows, columns = one.shape
    parts: dict[str, tuple[str, tuple[int, ...]]] = {
        name + BITS: ("U8", (rows, -(-columns // 8))),
        name + PACKED_VALUES: (DTYPE_NAMES[TYPES[values]], (count,)),
    }
    if values == "int8":
        parts[name + SCALES] = ("F32", (rows, -(-columns // (group or GROUP))))
    return parts


def _made(name: str, weight: Tensor, dtype: torch.dtype, group: int | None, source: Path) -> Packed:
    try:
        return pack(weight, values=dtype, group=group)
    except ValueError as error:
        raise SparseError(f"{name} in {source}: {error}") from error


def _keeps_bits(weight: Tensor, dtype: torch.dtype) -> bool:
    """Tells whether every value comes back from `dtype` to the bit."""
    if dtype == torch.int8:
        return False
    bits = AS_INTEGERS[weight.dtype]
    return torch.equal(weight.to(dtype).to(weight.dtype).view(bits), weight.view(bits))


def is_packed(path: Path) -> bool:
    """Tells whether a safetensors file has packed weights, by its header alone."""
    return read_header(path).metadata.get("format") == FORMAT
