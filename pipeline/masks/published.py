"""Reads published files back from their store, with the safetensors library, as any consumer would."""

import hashlib
import tempfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path

from safetensors import safe_open
from torch import Tensor

from pipeline.artifacts.certificate import TensorCertificate
from pipeline.artifacts.refs import MASKS_PATH
from pipeline.checkpoint.keeps import HeldTensor
from pipeline.checkpoint.slices import stored_apart, values_apart, whole_name
from pipeline.errors import CorruptObject, InvalidSpec
from pipeline.masks.file import MaskFile
from pipeline.storage.base import Store
from pipeline.tensor.zeros import keep_sha256


def published_tensors(
    store: Store, prefix: str, digests: Mapping[str, str], *, held: Mapping[str, HeldTensor]
) -> Iterator[tuple[str, Tensor]]:
    """Yields name and weight of each tensor in `held`, block by block within a file, with one file at a time
    on disk.

    `digests`: path below `prefix` → SHA-256 of the safetensors files. Raises CorruptObject when one differs
    from the file that was written.
    """
    sliced, blocks = stored_apart(held), {whole_name(name): one.block for name, one in held.items()}
    with tempfile.TemporaryDirectory(prefix="secateur-published-") as directory:
        local = Path(directory) / "file.safetensors"
        for path, digest in sorted(digests.items()):
            _fetch(store, f"{prefix}/{path}", local, digest=digest)
            with safe_open(local, framework="pt") as file:
                for name in _in_order(file.keys(), blocks):
                    yield from values_apart(name, file.get_tensor(name), sliced)


def check_masks(store: Store, prefix: str, digest: str, tensors: Sequence[TensorCertificate]) -> None:
    """Reads the published masks back and checks that each is the certified one. `digest`: SHA-256 of their
    file. Raises CorruptObject, which names the first mask that differs."""
    with tempfile.TemporaryDirectory(prefix="secateur-published-") as directory:
        local = Path(directory) / "file.safetensors"
        key = f"{prefix}/{MASKS_PATH}"
        _fetch(store, key, local, digest=digest)
        try:
            masks = MaskFile(local, named=key)
            found = {one.tensor: keep_sha256(masks.matrix(one.tensor)) for one in tensors}
        except (InvalidSpec, KeyError) as error:
            raise CorruptObject(f"{key} was written, and cannot be read: {error}") from error
    for one in tensors:
        if found[one.tensor] != one.keep_sha256:
            raise CorruptObject(f"{key} has another mask of {one.tensor} than the one that was certified")


def _fetch(store: Store, key: str, to: Path, *, digest: str) -> None:
    hashed = hashlib.sha256()
    with to.open("wb") as file:
        for chunk in store.get(key):
            hashed.update(chunk)
            file.write(chunk)
    if hashed.hexdigest() != digest:
        raise CorruptObject(f"{key} was published with SHA-256 {digest}; now it has {hashed.hexdigest()}")


def _in_order(names: Collection[str], blocks: Mapping[str, int]) -> list[str]:
    return sorted((name for name in names if name in blocks), key=lambda name: (blocks[name], name))
