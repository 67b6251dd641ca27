"""Writes tensors to a safetensors blob and returns its index entries. Equal tensors give equal bytes."""

import hashlib
import json
import math
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.artifacts.artifact import FileRef
from pipeline.artifacts.tensor_index import TensorEntry
from pipeline.checkpoint.reader import DTYPE_NAMES, DTYPES, CheckpointReader
from pipeline.checkpoint.slices import joined, place
from pipeline.storage.base import Chunk
from pipeline.storage.content import BlobRef, ContentStore

PIECE_BYTES = 256 * 1024


@dataclass(frozen=True)
class _Source:
    """One tensor to be written: its facts, and a function that reads its bytes when they are due."""

    dtype: str
    shape: tuple[int, ...]
    length: int
    read: Callable[[], Iterable[Chunk]]


@dataclass(frozen=True)
class _Layout:
    """A safetensors file that is to be written: its header and its tensors."""

    header: bytes
    sources: Mapping[str, _Source]

    @property
    def ordered(self) -> list[tuple[str, _Source]]:
        """The tensors as they lie in the file: by the size of their values, which keeps data aligned."""
        return _in_order(self.sources)

    @property
    def size(self) -> int:
        """The bytes of the whole file."""
        return len(self.header) + sum(source.length for source in self.sources.values())

    def chunks(self) -> Iterator[Chunk]:
        """Yields the bytes of the file; may be called again."""
        yield self.header
        for _, source in self.ordered:
            yield from source.read()


@dataclass(frozen=True)
class LaterBytes:
    """A tensor uint8 [`length`] that is computed only when it is written."""

    length: int
    make: Callable[[], Tensor]


@dataclass(frozen=True)
class LaterTensor:
    """A tensor that is computed only when it is written. `dtype`: its name in safetensors."""

    dtype: str
    shape: tuple[int, ...]
    make: Callable[[], Tensor]


def put_tensors(
    content: ContentStore, path: str, tensors: Mapping[str, Tensor], *, apart: bool = False
) -> tuple[FileRef, dict[str, TensorEntry]]:
    """Stores `tensors` as the safetensors file `path`, in which slices lie in their tensors (slices.py); with
    `apart`, each is one of its own. One pass over the bytes gives the digest of the file and those of the
    tensors; nothing is copied, and if the file exists, nothing is read again."""
    laid = _laid_out({name: _from_memory(tensor) for name, tensor in tensors.items()}, apart=apart)
    whole, digests = hashlib.sha256(laid.header), {}
    for name, source in laid.ordered:
        own = hashlib.sha256()
        for chunk in source.read():
            for piece in _pieces(chunk):
                own.update(piece)
                whole.update(piece)
        digests[name] = own.hexdigest()
    ref = BlobRef(digest=whole.hexdigest(), size=laid.size)
    content.put_known(ref, laid.chunks)
    return FileRef(path=path, blob=ref), _entries(path, laid, digests)


def copy_tensors(
    content: ContentStore, path: str, reader: CheckpointReader, names: Sequence[str]
) -> tuple[FileRef, dict[str, TensorEntry]]:
    """Stores tensors of another checkpoint as the safetensors file `path`, with one chunk in memory at a
    time."""
    laid = _laid_out({name: _from_checkpoint(reader, name) for name in names})
    digests = {name: reader.index.tensors[name].sha256 for name in names}
    return FileRef(path=path, blob=content.put_stream(laid.chunks())), _entries(path, laid, digests)


def put_made(
    content: ContentStore, path: str, tensors: Mapping[str, LaterTensor]
) -> tuple[FileRef, dict[str, TensorEntry]]:
    """Stores tensors that are computed one at a time, by name, as the safetensors file `path`, in which
    slices lie in their tensors."""
    laid = _laid_out({name: _from_made(name, tensor) for name, tensor in tensors.items()})
    digests: dict[str, str] = {}

    def chunks() -> Iterator[Chunk]:
        yield laid.header
        for name, source in laid.ordered:
            own = hashlib.sha256()
            for chunk in source.read():
                own.update(chunk)
                yield chunk
            digests[name] = own.hexdigest()

    ref = content.put_stream(chunks())
    return FileRef(path=path, blob=ref), _entries(path, laid, digests)


def copied_file(reader: CheckpointReader, names: Mapping[str, str]) -> Iterator[Chunk]:
    """Yields the bytes of a safetensors file with tensors of a stored checkpoint, with one chunk in memory at
    a time. `names`: the stored names, by those that the tensors get."""
    yield from _laid_out({name: _from_checkpoint(reader, stored) for name, stored in names.items()}).chunks()


def put_later(
    content: ContentStore, path: str, tensors: Mapping[str, LaterBytes], *, metadata: Mapping[str, str]
) -> FileRef:
    """Stores tensors that are computed one at a time, by name, as the safetensors file `path`, with
    `metadata` in its header. Each slice is a tensor of its own."""
    later = {name: _from_later(name, tensor) for name, tensor in tensors.items()}
    laid = _laid_out(later, metadata, apart=True)
    return FileRef(path=path, blob=content.put_stream(laid.chunks()))


def _laid_out(
    sources: Mapping[str, _Source], metadata: Mapping[str, str] | None = None, *, apart: bool = False
) -> _Layout:
    fields: dict[str, object] = {"__metadata__": {"format": "pt", **(metadata or {})}}
    ordered = _in_order(sources)
    offset = 0
    shapes = {name: source.shape for name, source in ordered}
    stored = {name: (shape, [name]) for name, shape in shapes.items()} if apart else joined(shapes)
    for name, (shape, parts) in stored.items():
        end = offset + sum(sources[part].length for part in parts)
        fields[name] = {"dtype": sources[parts[0]].dtype, "shape": shape, "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(fields, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the format requires data aligned to 8 bytes
    return _Layout(header=struct.pack("<Q", len(text)) + text, sources=sources)


def _in_order(sources: Mapping[str, _Source]) -> list[tuple[str, _Source]]:
    return sorted(sources.items(), key=lambda item: (-_item_size(item[1]), place(item[0])))


def _entries(path: str, laid: _Layout, digests: Mapping[str, str]) -> dict[str, TensorEntry]:
    starts, start = {}, len(laid.header)
    for name, source in laid.ordered:
        starts[name] = start
        start += source.length
    return {
        name: TensorEntry(
            file=path,
            start=starts[name],
            length=source.length,
            dtype=source.dtype,
            shape=source.shape,
            sha256=digests[name],
        )
        for name, source in laid.sources.items()
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


def _from_made(name: str, tensor: LaterTensor) -> _Source:
    def read() -> Iterable[Chunk]:
        made = tensor.make()
        assert made.shape == tensor.shape, f"{name} was to be {tensor.shape}, got {made.shape}"
        yield _tensor_bytes(made)

    length = math.prod(tensor.shape) * DTYPES[tensor.dtype].itemsize
    return _Source(dtype=tensor.dtype, shape=tensor.shape, length=length, read=read)


def _from_later(name: str, tensor: LaterBytes) -> _Source:
    def read() -> Iterable[Chunk]:
        made = tensor.make()
        assert made.dtype == torch.uint8, f"{name} is made of bytes, got {made.dtype}"
        assert made.shape == (tensor.length,), f"{name} was to have {tensor.length} bytes, got {made.shape}"
        yield _tensor_bytes(made)

    return _Source(dtype="U8", shape=(tensor.length,), length=tensor.length, read=read)


def _tensor_bytes(tensor: Tensor) -> memoryview:
    """Returns a tensor's bytes without a copy, if it lies contiguous in the CPU's memory."""
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().data if flat.numel() else memoryview(b"")


def _pieces(chunk: Chunk) -> Iterator[memoryview]:
    """Cuts a chunk so that a second digest finds each piece in the processor's cache."""
    view = memoryview(chunk)
    for start in range(0, len(view), PIECE_BYTES):
        yield view[start : start + PIECE_BYTES]
