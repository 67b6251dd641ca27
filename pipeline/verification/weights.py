"""Checks the weights of a fetched directory: their names, shapes, types, values and zeros."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from pipeline.artifacts.certificate import TensorCertificate
from pipeline.artifacts.tensor_index import TensorEntry, TensorIndex
from pipeline.checkpoint.keeps import Keeps
from pipeline.checkpoint.layout import WEIGHTS, WEIGHTS_INDEX_JSON
from pipeline.checkpoint.scan import read_header
from pipeline.checkpoint.slices import slices_of, stored_apart, values_apart, whole_name
from pipeline.errors import UnsupportedCheckpoint, VerificationFailed, ZerosLost
from pipeline.masks.certify import certify_tensors
from pipeline.tensor.masks import all_finite


@dataclass(frozen=True)
class CheckedWeights:
    """The number of tensors and of their values, and the certificates of those under a keep tensor. `bytes`:
    the size of all tensors."""

    tensors: int
    values: int
    bytes: int
    certificates: tuple[TensorCertificate, ...]

    @property
    def zeros(self) -> int:
        """The number of weights that must be zero, all of which are."""
        return sum(one.held for one in self.certificates)


def check_weights(directory: Path, index: TensorIndex, keeps: Keeps | None) -> CheckedWeights:
    """Reads all weights once, one tensor in memory at a time. `index`: what was put into the checkpoint.

    Raises VerificationFailed, which names file and tensor, for tensors that are missing, left over, of
    another shape or type, not finite, or not zero where `keeps` says so, and for a weight index that does not
    agree.
    """
    sliced = stored_apart(index.tensors)
    found = _headers(directory, sorted({entry.file for entry in index.tensors.values()}))
    _check_tensors(index.tensors, found, sliced)
    _check_index(directory, found)
    finite = _finite(directory, found, keeps, sliced)
    certificates: tuple[TensorCertificate, ...] = ()
    if keeps is None:
        for _ in finite:
            pass
    else:
        try:
            certificates, _ = certify_tensors(finite, keeps, at="published")
        except ZerosLost as error:
            raise VerificationFailed(error.message) from error
    return CheckedWeights(
        tensors=len(found),
        values=sum(one.values for one in found.values()),
        bytes=sum(entry.length for entry in index.tensors.values()),
        certificates=certificates,
    )


@dataclass(frozen=True)
class _Found:
    file: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def values(self) -> int:
        return torch.Size(self.shape).numel()


def _headers(directory: Path, files: list[str]) -> dict[str, _Found]:
    found: dict[str, _Found] = {}
    for file in files:
        try:
            _, tensors = read_header(directory / file)
        except (UnsupportedCheckpoint, OSError) as error:
            raise VerificationFailed(f"{file} cannot be read: {error}") from error
        for one in tensors:
            if one.name in found:
                raise VerificationFailed(f"tensor {one.name} lies in both {found[one.name].file} and {file}")
            found[one.name] = _Found(file, one.dtype, one.shape)
    return found


def _check_tensors(
    expected: Mapping[str, TensorEntry], stored: Mapping[str, _Found], sliced: Mapping[str, int]
) -> None:
    found: dict[str, _Found] = {}
    for name, whole in stored.items():
        parts = slices_of(name, whole.shape, sliced[name]) if name in sliced else [(name, whole.shape)]
        found |= {part: _Found(whole.file, whole.dtype, shape) for part, shape in parts}
    for name, entry in expected.items():
        one = found.get(name)
        if one is None:
            raise VerificationFailed(f"{entry.file} lacks tensor {name}")
        if one != _Found(entry.file, entry.dtype, entry.shape):
            raise VerificationFailed(
                f"tensor {name} is {one.dtype} {list(one.shape)} in {one.file}; it was made as {entry.dtype} "
                f"{list(entry.shape)} in {entry.file}"
            )
    for name in found.keys() - expected.keys():
        raise VerificationFailed(f"{found[name].file} has tensor {name}, which nobody made")


def _check_index(directory: Path, found: Mapping[str, _Found]) -> None:
    """Checks that the weight index and the shards agree. (Some indices omit buffers.)"""
    path = directory / WEIGHTS_INDEX_JSON
    files = {one.file for one in found.values()}
    if not path.is_file():
        if files != {WEIGHTS}:
            raise VerificationFailed(
                f"{WEIGHTS_INDEX_JSON} is missing, and the weights are in {', '.join(sorted(files))}"
            )
        return
    try:
        weight_map = json.loads(path.read_bytes())["weight_map"]
        named = dict(weight_map.items())
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise VerificationFailed(
            f"{WEIGHTS_INDEX_JSON} has no field weight_map of names and files"
        ) from error
    for name, file in named.items():
        actual = found[name].file if name in found else "none"
        if file != actual:
            raise VerificationFailed(
                f"{WEIGHTS_INDEX_JSON} says that {name} is in {file}, and it is in {actual} (field "
                f"weight_map)"
            )
    unnamed = sorted(files - {*named.values()})
    if unnamed:
        raise VerificationFailed(f"{WEIGHTS_INDEX_JSON} does not name {unnamed[0]} (field weight_map)")


def _finite(
    directory: Path, found: Mapping[str, _Found], keeps: Keeps | None, sliced: Mapping[str, int]
) -> Iterator[tuple[str, Tensor]]:
    """Yields every tensor, block by block within a file. Raises VerificationFailed for NaN and infinity."""
    held = {} if keeps is None else {whole_name(name): one.block for name, one in keeps.tensors.items()}
    for file in sorted({one.file for one in found.values()}):
        names = [name for name, one in found.items() if one.file == file]
        names.sort(key=lambda name: (held.get(name, -1), name))
        try:
            with safe_open(directory / file, framework="pt") as opened:
                for name in names:
                    tensor = opened.get_tensor(name)
                    if tensor.is_floating_point():
                        _check_finite(tensor, name=name, file=file)
                    yield from values_apart(name, tensor, sliced)
        except SafetensorError as error:
            raise VerificationFailed(f"the safetensors library cannot read {file}: {error}") from error


def _check_finite(tensor: Tensor, *, name: str, file: str) -> None:
    if not all_finite(tensor):
        bad = (~torch.isfinite(tensor)).nonzero()
        raise VerificationFailed(
            f"tensor {name} in {file} has {len(bad)} values that are NaN or infinite, the first at "
            f"{bad[0].tolist()}"
        )
