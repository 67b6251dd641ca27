"""Compares the packed weights of a published directory with its ordinary ones."""

from collections.abc import Iterable
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from pipeline.artifacts.verification import PackedWeights
from pipeline.errors import VerificationFailed
from secateur.sparse.directories import FOLDER
from secateur.sparse.errors import SparseError
from secateur.sparse.files import SparseFile
from secateur.sparse.packed import Packed
from secateur.sparse.tensor_file import read_header

BF16_ROUNDING = 2**-8  # half of the last of eight bits, as a share of a number
SLACK = 1 + 1e-5  # the bounds are computed in float32 themselves


def check_packed(directory: Path, paths: Iterable[str]) -> PackedWeights | None:
    """Compare every tensor of the packed files among `paths` with that of the ordinary file of the same name.
    Memory holds one tensor in both forms. None where there are no packed files.

    Raises VerificationFailed, which names file and tensor: for a bit that differs where the file says that it
    is lossless, for a value further away than its type rounds, and for a value where the weight is zero.
    """
    packed = [one for one in sorted(paths) if one.startswith(f"{FOLDER}/") and one.endswith(".safetensors")]
    if not packed:
        return None
    files = []
    for path in packed:
        try:
            files.append(_compared(directory, path))
        except SparseError as error:
            raise VerificationFailed(f"{path} cannot be read: {error}") from error
    return PackedWeights(
        values=files[0].values,
        matrices=sum(len(file.packed_names) for file in files),
        lossless=all(file.lossless for file in files),
        bytes=sum(file.file_bytes for file in files),
        ordinary_bytes=sum(file.dense.file_bytes for file in files),
    )


def _compared(directory: Path, path: str) -> SparseFile:
    file, ordinary = SparseFile(directory / path), directory / path.removeprefix(f"{FOLDER}/")
    if not ordinary.is_file() or file.dense.text != read_header(ordinary).text:
        raise VerificationFailed(f"{path} was not made of the ordinary file beside it: their headers differ")
    with safe_open(ordinary, framework="pt") as tensors:
        for name in file.dense.tensors:
            weight = tensors.get_tensor(name)
            fault = _fault(file, name, weight)
            if fault is not None:
                raise VerificationFailed(f"tensor {name} in {path} {fault}")
    return file


def _fault(file: SparseFile, name: str, weight: Tensor) -> str | None:
    """What is wrong with a tensor, or None."""
    found = file.tensor(name)
    if name not in file.packed_names or file.lossless:
        same = torch.equal(found.contiguous().view(torch.uint8), weight.contiguous().view(torch.uint8))
        return None if same else "is not that of the ordinary file to the bit"
    packed = file.packed(name)
    allowed = _rounding(packed, weight) * SLACK
    apart = (packed.dense().float() - weight.float()).abs()
    if bool((apart > allowed).any()):
        row, column = divmod(int((apart - allowed).argmax()), weight.shape[1])
        return (
            f"is {float(packed.dense()[row, column]):.6g} at [{row}, {column}], and "
            f"{float(weight[row, column]):.6g} in the ordinary file: {file.values} rounds less"
        )
    revived = (packed.dense() != 0) & (weight == 0)
    return "has a value where the weight is zero" if bool(revived.any()) else None


def _rounding(packed: Packed, weight: Tensor) -> Tensor:
    """By how much each value may differ, float32 [rows, columns]."""
    if packed.scales is None or packed.group is None:
        return weight.float().abs() * BF16_ROUNDING
    return packed.scales.repeat_interleave(packed.group, dim=1)[:, : packed.shape[1]] / 2
