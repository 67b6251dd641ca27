"""One tensor at a time from a stored checkpoint, each verified against its digest."""

import json
from functools import cached_property

import torch
from pydantic import JsonValue
from torch import Tensor

from pipeline.artifacts import CheckpointRef
from pipeline.canonical import sha256_hex
from pipeline.checkpoint.index import TENSORS_JSON, TensorEntry, TensorIndex
from pipeline.errors import CorruptObject, UnsupportedCheckpoint
from pipeline.storage.content import BlobRef, ContentStore

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
DTYPE_NAMES = {dtype: name for name, dtype in DTYPES.items()}


class CheckpointReader:
    """Reads a checkpoint that lies in a content store. Holds no weights."""

    def __init__(self, content: ContentStore, ref: CheckpointRef) -> None:
        self._content = content
        self._ref = ref

    @cached_property
    def index(self) -> TensorIndex:
        """Every tensor of the checkpoint."""
        return TensorIndex.model_validate_json(self._content.get_bytes(self._ref.file(TENSORS_JSON)))

    @cached_property
    def config(self) -> dict[str, JsonValue]:
        """config.json."""
        loaded: dict[str, JsonValue] = json.loads(self._content.get_bytes(self._ref.file("config.json")))
        return loaded

    def tensor(self, name: str) -> Tensor:
        """One tensor in its stored type, on the CPU. Raises CorruptObject when its bytes have changed."""
        entry = self.index.tensors[name]
        return read_tensor(self._content, self._ref.file(entry.file), entry, name=name)


def read_tensor(content: ContentStore, blob: BlobRef, entry: TensorEntry, *, name: str) -> Tensor:
    """One tensor from the blob that holds it, verified."""
    data = content.read_range(blob, start=entry.start, length=entry.length)
    actual = sha256_hex(data)
    if actual != entry.sha256:
        raise CorruptObject(
            f"tensor {name} in {content.key(blob)} has digest {actual[:12]}…, expected {entry.sha256[:12]}…; "
            "delete that object and submit the job again"
        )
    if entry.dtype not in DTYPES:
        raise UnsupportedCheckpoint(
            f"tensor {name} has type {entry.dtype}; allowed: {', '.join(DTYPES)}", "spec.model.source"
        )
    if not entry.length:
        return torch.empty(entry.shape, dtype=DTYPES[entry.dtype])
    return torch.frombuffer(bytearray(data), dtype=DTYPES[entry.dtype]).reshape(entry.shape)
