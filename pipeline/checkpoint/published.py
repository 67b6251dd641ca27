"""Published files read back from where they lie, with the safetensors library, as any consumer would."""

import hashlib
import tempfile
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

from safetensors import safe_open
from torch import Tensor

from pipeline.checkpoint.keeps import HeldTensor
from pipeline.errors import CorruptObject
from pipeline.storage.base import Store


def published_tensors(
    store: Store, prefix: str, digests: Mapping[str, str], *, held: Mapping[str, HeldTensor]
) -> Iterator[tuple[str, Tensor]]:
    """Name and weight of each tensor in `held`, block by block within a file; one file at a time is on disk.

    `digests`: path below `prefix` → SHA-256 of the safetensors files. Raises CorruptObject when one is not
    what was written.
    """
    with tempfile.TemporaryDirectory(prefix="secateur-published-") as directory:
        local = Path(directory) / "file.safetensors"
        for path, digest in sorted(digests.items()):
            _fetch(store, f"{prefix}/{path}", local, digest=digest)
            with safe_open(local, framework="pt") as file:
                for name in _in_order(file.keys(), held):
                    yield name, file.get_tensor(name)


def _fetch(store: Store, key: str, to: Path, *, digest: str) -> None:
    hashed = hashlib.sha256()
    with to.open("wb") as file:
        for chunk in store.get(key):
            hashed.update(chunk)
            file.write(chunk)
    if hashed.hexdigest() != digest:
        raise CorruptObject(f"{key} was published with SHA-256 {digest}; now it has {hashed.hexdigest()}")


def _in_order(names: Collection[str], held: Mapping[str, HeldTensor]) -> list[str]:
    return sorted((name for name in names if name in held), key=lambda name: (held[name].block, name))
