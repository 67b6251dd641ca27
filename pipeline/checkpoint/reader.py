"""Reads one tensor at a time from a stored checkpoint, and verifies each against its digest."""

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property

import torch
from pydantic import JsonValue
from torch import Tensor

from pipeline.artifacts.refs import CheckpointRef
from pipeline.artifacts.tensor_index import TensorEntry, TensorIndex
from pipeline.checkpoint.config_json import parse_config
from pipeline.checkpoint.language_model import language_config
from pipeline.checkpoint.layout import CONFIG_JSON
from pipeline.errors import CorruptObject, UnsupportedCheckpoint
from pipeline.storage.content import BlobRef, ContentStore

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,  # of weights that were quantized here: a source has none
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
DTYPE_NAMES = {dtype: name for name, dtype in DTYPES.items()}


@dataclass(frozen=True)
class Place:
    """The place of one tensor in storage, and its name for messages."""

    name: str
    blob: BlobRef
    entry: TensorEntry


class CheckpointReader:
    """Reads a checkpoint that lies in a content store. Holds no weights."""

    def __init__(self, content: ContentStore, ref: CheckpointRef) -> None:
        self._content = content
        self._ref = ref

    @cached_property
    def index(self) -> TensorIndex:
        """Every tensor of the checkpoint."""
        return self._ref.load(self._content, TensorIndex)

    @cached_property
    def config(self) -> dict[str, JsonValue]:
        """The config.json of the language model, which is a part of a multimodal checkpoint's."""
        return language_config(self.whole_config)

    @cached_property
    def whole_config(self) -> dict[str, JsonValue]:
        """config.json."""
        loaded = parse_config(self._content.get_bytes(self._ref.file(CONFIG_JSON)))
        assert isinstance(loaded, dict), "resolve has read it"
        return loaded

    @property
    def weights(self) -> int:
        """The number of values in all stored tensors."""
        return sum(math.prod(entry.shape) for entry in self.index.tensors.values())

    def place(self, name: str) -> Place:
        """Returns the place of one tensor."""
        entry = self.index.tensors[name]
        return Place(name, self._ref.file(entry.file), entry)

    def tensor(self, name: str) -> Tensor:
        """Returns one tensor in its stored type, on the CPU. Raises CorruptObject when its bytes have
        changed."""
        place = self.place(name)
        return read_tensor(self._content, place.blob, place.entry, name=name)

    def rows(self, name: str, wanted: Sequence[int]) -> Tensor:
        """Returns some rows of a tensor, by ascending index, without holding the others."""
        entry = self.index.tensors[name]
        row_bytes = entry.length // entry.shape[0]
        kept, passing = bytearray(), bytearray()
        first, at = 0, 0  # the index of the first row in `passing`, and of the next row to find in `wanted`
        for chunk in self.chunks(name):
            passing += chunk
            whole = len(passing) // row_bytes
            while at < len(wanted) and wanted[at] < first + whole:
                start = (wanted[at] - first) * row_bytes
                kept += passing[start : start + row_bytes]
                at += 1
            del passing[: whole * row_bytes]
            first += whole
        dtype, shape = _dtype(entry, name), (len(wanted), *entry.shape[1:])
        return torch.frombuffer(kept, dtype=dtype).reshape(shape) if kept else torch.empty(shape, dtype=dtype)

    def chunks(self, name: str) -> Iterator[bytes]:
        """Yields a tensor's bytes as they are stored; raises CorruptObject at their end when they have
        changed."""
        entry = self.index.tensors[name]
        return _verified_chunks(self._content, self._ref.file(entry.file), entry, name=name)


def read_tensor(
    content: ContentStore, blob: BlobRef, entry: TensorEntry, *, name: str, pinned: bool = False
) -> Tensor:
    """Returns one tensor from the blob that holds it, verified. Memory holds its bytes once; if they are
    `pinned`, it is page-locked, so that a GPU can fetch them by itself."""
    dtype = _dtype(entry, name)
    held = torch.empty(entry.length, dtype=torch.uint8, pin_memory=pinned)
    data, at = held.numpy().data, 0
    for chunk in _verified_chunks(content, blob, entry, name=name):
        data[at : at + len(chunk)] = chunk
        at += len(chunk)
    return held.view(dtype).reshape(entry.shape)


def read_tensors(
    content: ContentStore, places: Mapping[str, Place], *, pinned: bool = False
) -> dict[str, Tensor]:
    """Returns several tensors by the keys of `places`: see `read_tensor`. They are read at once, over
    as many connections as `content` says."""

    def read(place: Place) -> Tensor:
        return read_tensor(content, place.blob, place.entry, name=place.name, pinned=pinned)

    if content.connections == 1:
        return {key: read(place) for key, place in places.items()}
    with ThreadPoolExecutor(content.connections, thread_name_prefix="tensors") as pool:
        return dict(zip(places, pool.map(read, places.values()), strict=True))


def _verified_chunks(
    content: ContentStore, blob: BlobRef, entry: TensorEntry, *, name: str
) -> Iterator[bytes]:
    return content.cached(entry.sha256, entry.length, lambda: _stored_chunks(content, blob, entry, name=name))


def _stored_chunks(content: ContentStore, blob: BlobRef, entry: TensorEntry, *, name: str) -> Iterator[bytes]:
    digest = hashlib.sha256()
    for chunk in content.store.get(content.key(blob), start=entry.start, length=entry.length):
        digest.update(chunk)
        yield chunk
    if digest.hexdigest() != entry.sha256:
        raise CorruptObject(
            f"tensor {name} in {content.key(blob)} has digest {digest.hexdigest()[:12]}…, expected "
            f"{entry.sha256[:12]}…; delete that object and submit the job again"
        )


def _dtype(entry: TensorEntry, name: str) -> torch.dtype:
    if entry.dtype not in DTYPES:
        raise UnsupportedCheckpoint(
            f"tensor {name} has type {entry.dtype}; allowed: {', '.join(DTYPES)}", "spec.model.source"
        )
    return DTYPES[entry.dtype]
