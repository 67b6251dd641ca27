"""Reads the pickles in Megatron's files. No class or function that they name is ever imported or called.

Their settings contain objects of Megatron's own classes, which need not be installed here: every class except
a few listed ones becomes an inert stand-in.
"""

import io
import pickle
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import IO, cast

import torch
from torch.distributed.checkpoint import filesystem, metadata
from torch.distributed.checkpoint.metadata import Metadata

from pipeline.errors import UnsupportedCheckpoint

Stored = dict[str, object]

_KNOWN = {
    (kind.__module__, kind.__name__): kind
    for kind in (
        metadata.Metadata,
        metadata.MetadataIndex,
        metadata.TensorStorageMetadata,
        metadata.BytesStorageMetadata,
        metadata.ChunkStorageMetadata,
        metadata.TensorProperties,
        metadata.StorageMeta,
        metadata._MEM_FORMAT_ENCODING,
        filesystem._StorageInfo,
        torch.Size,
        torch.serialization._get_layout,
    )
}


class _Inert:
    """Accepts any state that a pickle gives an object, and ignores it."""

    def __new__(cls, *args: object) -> "_Inert":
        return super().__new__(cls)

    def __init__(self, *args: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        pass


def load_settings(path: Path) -> Stored:
    """Loads a file of torch.save: tensors are memory-mapped, not read; unknown classes are inert. Raises
    UnsupportedCheckpoint for other files."""
    try:
        unknown = torch.serialization.get_unsafe_globals_in_checkpoint(path)
        allowed: list[Callable[..., object] | tuple[Callable[..., object], str]] = [
            (Namespace if name == "argparse.Namespace" else _stand_in(name), name) for name in unknown
        ]
        with torch.serialization.safe_globals(allowed):
            loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (pickle.UnpicklingError, RuntimeError, ValueError, EOFError) as error:
        raise UnsupportedCheckpoint(
            f"{path} cannot be read: {_reason(error)}; it must be what torch.save writes since torch 1.6"
        ) from error
    if not isinstance(loaded, dict):
        raise UnsupportedCheckpoint(f"{path} holds a {type(loaded).__name__} instead of a dict")
    return cast(Stored, loaded)


def load_metadata(path: Path) -> Metadata:
    """Loads the `.metadata` of torch.distributed.checkpoint. Raises UnsupportedCheckpoint for other files."""
    try:
        loaded = _MetadataUnpickler(io.BytesIO(path.read_bytes())).load()
    except (pickle.UnpicklingError, EOFError, AttributeError, TypeError, ValueError, LookupError) as error:
        raise UnsupportedCheckpoint(
            f"{path} is no metadata of torch.distributed.checkpoint: {error}"
        ) from error
    if not isinstance(loaded, Metadata):
        raise UnsupportedCheckpoint(f"{path} is no metadata of torch.distributed.checkpoint")
    return loaded


def load_tensor(file: IO[bytes], *, start: int, length: int) -> torch.Tensor:
    """Loads one piece of a tensor from a `.distcp` file."""
    file.seek(start)
    loaded = torch.load(io.BytesIO(file.read(length)), map_location="cpu", weights_only=True)
    if not isinstance(loaded, torch.Tensor):
        raise UnsupportedCheckpoint(
            f"{file.name} holds a {type(loaded).__name__} at {start} instead of a tensor"
        )
    return loaded


class _MetadataUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> object:
        """Returns torch's own descriptions and types, and stand-ins for everything else."""
        if module == "torch" and isinstance(found := getattr(torch, name, None), torch.dtype):
            return found
        return _KNOWN.get((module, name)) or _stand_in(f"{module}.{name}")


def _reason(error: Exception) -> str:
    """Returns the line that states the reason, without torch's advice around it."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return next((line for line in lines if "GLOBAL" in line), lines[0] if lines else type(error).__name__)


def _stand_in(name: str) -> type[_Inert]:
    return type(name.rpartition(".")[2], (_Inert,), {})
