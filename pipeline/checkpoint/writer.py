"""Tensors to a safetensors blob with its index entries. Equal tensors give equal bytes."""

import json
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.artifacts import FileRef
from pipeline.canonical import sha256_hex
from pipeline.checkpoint.index import TensorEntry
from pipeline.checkpoint.reader import DTYPE_NAMES, DTYPES, CheckpointReader
from pipeline.storage.content import BlobRef, ContentStore


@dataclass(frozen=True)
class _Source:
    """One tensor to be written: its facts, and how to get its bytes when their turn comes."""

    dtype: str
    shape: tuple[int, ...]
    length: int
    sha256: str
    read: Callable[[], Iterable[bytes]]


def put_tensors(
    content: ContentStore, path: str, tensors: Mapping[str, Tensor]
) -> tuple[FileRef, dict[str, TensorEntry]]:
    """Store `tensors` as the safetensors file `path`."""
    sources = {name: _from_memory(tensor) for name, tensor in tensors.items()}
    return _put(path, sources, content.put_repeatable)


def copy_tensors(
    content: ContentStore, path: str, reader: CheckpointReader, names: Sequence[str]
) -> tuple[FileRef, dict[str, TensorEntry]]:
    """Store tensors of another checkpoint as the safetensors file `path`, a chunk in memory at a time."""
    sources = {name: _from_checkpoint(reader, name) for name in names}
    return _put(path, sources, lambda chunks: content.put_stream(chunks()))


def _put(
    path: str, sources: Mapping[str, _Source], put: Callable[[Callable[[], Iterable[bytes]]], BlobRef]
) -> tuple[FileRef, dict[str, TensorEntry]]:
    fields: dict[str, object] = {"__metadata__": {"format": "pt"}}
    starts: dict[str, int] = {}
    offset = 0
    ordered = sorted(sources.items(), key=lambda item: (-_item_size(item[1]), item[0]))  # keeps data aligned
    for name, source in ordered:
        starts[name] = offset
        end = offset + source.length
        fields[name] = {"dtype": source.dtype, "shape": source.shape, "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(fields, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the format asks for data aligned to 8 bytes
    header = struct.pack("<Q", len(text)) + text

    def chunks() -> Iterator[bytes]:
        yield header
        for _, source in ordered:
            yield from source.read()

    blob = put(chunks)
    entries = {
        name: TensorEntry(
            file=path,
            start=len(header) + starts[name],
            length=source.length,
            dtype=source.dtype,
            shape=source.shape,
            sha256=source.sha256,
        )
        for name, source in sources.items()
    }
    return FileRef(path=path, blob=blob), entries


def _item_size(source: _Source) -> int:
    return DTYPES[source.dtype].itemsize


def _from_memory(tensor: Tensor) -> _Source:
    return _Source(
        dtype=DTYPE_NAMES[tensor.dtype],
        shape=tuple(tensor.shape),
        length=tensor.numel() * tensor.element_size(),
        sha256=sha256_hex(_tensor_bytes(tensor)),
        read=lambda: [_tensor_bytes(tensor)],
    )


def _from_checkpoint(reader: CheckpointReader, name: str) -> _Source:
    entry = reader.index.tensors[name]
    return _Source(
        dtype=entry.dtype,
        shape=entry.shape,
        length=entry.length,
        sha256=entry.sha256,
        read=lambda: reader.chunks(name),
    )


def _tensor_bytes(tensor: Tensor) -> bytes:
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().tobytes() if flat.numel() else b""
