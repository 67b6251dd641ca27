"""Writes tensors to a safetensors blob and returns its index entries. Equal tensors give equal bytes."""

import json
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.artifacts.artifact import FileRef
from pipeline.artifacts.tensor_index import TensorEntry
from pipeline.canonical import sha256_hex
from pipeline.checkpoint.reader import DTYPE_NAMES, DTYPES, CheckpointReader
from pipeline.storage.content import BlobRef, ContentStore


@dataclass(frozen=True)
class _Source:
    """One tensor to be written: its facts, and a function that reads its bytes when they are due."""

    dtype: str
    shape: tuple[int, ...]
    length: int
    read: Callable[[], Iterable[bytes]]


@dataclass(frozen=True)
class LaterBytes:
    """A tensor uint8 [`length`] that is computed only when it is written."""

    length: int
    make: Callable[[], Tensor]


def put_tensors(
    content: ContentStore, path: str, tensors: Mapping[str, Tensor]
) -> tuple[FileRef, dict[str, TensorEntry]]:
    """Stores `tensors` as the safetensors file `path`."""
    sources = {name: _from_memory(tensor) for name, tensor in tensors.items()}
    file, starts = _put(path, sources, content.put_repeatable)
    digests = {name: sha256_hex(_tensor_bytes(tensor)) for name, tensor in tensors.items()}
    return file, _entries(path, sources, starts, digests)


def copy_tensors(
    content: ContentStore, path: str, reader: CheckpointReader, names: Sequence[str]
) -> tuple[FileRef, dict[str, TensorEntry]]:
    """Stores tensors of another checkpoint as the safetensors file `path`, with one chunk in memory at a
    time."""
    sources = {name: _from_checkpoint(reader, name) for name in names}
    file, starts = _put(path, sources, lambda chunks: content.put_stream(chunks()))
    digests = {name: reader.index.tensors[name].sha256 for name in names}
    return file, _entries(path, sources, starts, digests)


def put_later(
    content: ContentStore, path: str, tensors: Mapping[str, LaterBytes], *, metadata: Mapping[str, str]
) -> FileRef:
    """Stores tensors that are computed one at a time, by name, as the safetensors file `path`, with
    `metadata` in its header."""
    sources = {name: _from_later(name, tensor) for name, tensor in tensors.items()}
    return _put(path, sources, lambda chunks: content.put_stream(chunks()), metadata=metadata)[0]


def _put(
    path: str,
    sources: Mapping[str, _Source],
    put: Callable[[Callable[[], Iterable[bytes]]], BlobRef],
    *,
    metadata: Mapping[str, str] | None = None,
) -> tuple[FileRef, dict[str, int]]:
    """Returns the file, and the position at which each tensor begins."""
    fields: dict[str, object] = {"__metadata__": {"format": "pt", **(metadata or {})}}
    starts: dict[str, int] = {}
    offset = 0
    ordered = sorted(sources.items(), key=lambda item: (-_item_size(item[1]), item[0]))  # keeps data aligned
    for name, source in ordered:
        starts[name] = offset
        end = offset + source.length
        fields[name] = {"dtype": source.dtype, "shape": source.shape, "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(fields, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the format requires data aligned to 8 bytes
    header = struct.pack("<Q", len(text)) + text

    def chunks() -> Iterator[bytes]:
        yield header
        for _, source in ordered:
            yield from source.read()

    return FileRef(path=path, blob=put(chunks)), {name: len(header) + at for name, at in starts.items()}


def _entries(
    path: str, sources: Mapping[str, _Source], starts: Mapping[str, int], digests: Mapping[str, str]
) -> dict[str, TensorEntry]:
    return {
        name: TensorEntry(
            file=path,
            start=starts[name],
            length=source.length,
            dtype=source.dtype,
            shape=source.shape,
            sha256=digests[name],
        )
        for name, source in sources.items()
    }


def _item_size(source: _Source) -> int:
    return DTYPES[source.dtype].itemsize


def _from_memory(tensor: Tensor) -> _Source:
    return _Source(
        dtype=DTYPE_NAMES[tensor.dtype],
        shape=tuple(tensor.shape),
        length=tensor.numel() * tensor.element_size(),
        read=lambda: [_tensor_bytes(tensor)],
    )


def _from_checkpoint(reader: CheckpointReader, name: str) -> _Source:
    entry = reader.index.tensors[name]
    return _Source(
        dtype=entry.dtype,
        shape=entry.shape,
        length=entry.length,
        read=lambda: reader.chunks(name),
    )


def _from_later(name: str, tensor: LaterBytes) -> _Source:
    def read() -> Iterable[bytes]:
        made = tensor.make()
        assert made.dtype == torch.uint8, f"{name} is made of bytes, got {made.dtype}"
        assert made.shape == (tensor.length,), f"{name} was to have {tensor.length} bytes, got {made.shape}"
        yield _tensor_bytes(made)

    return _Source(dtype="U8", shape=(tensor.length,), length=tensor.length, read=read)


def _tensor_bytes(tensor: Tensor) -> bytes:
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().tobytes() if flat.numel() else b""
