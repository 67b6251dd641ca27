"""Slices of stored tensors, as tensors of their own.

Some checkpoints store the matrices of all experts of a block in one tensor. Here everything works on
matrices, so that the index of a checkpoint has an entry for each, whose name says its place as Python would:

    a file      model.layers.0.mlp.experts.down_proj    [E, F, H]
    the index   model.layers.0.mlp.experts.down_proj[3] [F, H]

Slices lie one after the other in their tensor. So each has a byte range and a digest of its own, and a file
is written from them in their order.
"""

import re
from collections.abc import Collection, Iterator, Mapping
from typing import TYPE_CHECKING

from pipeline.architecture.row import Architecture

if TYPE_CHECKING:
    from torch import Tensor

# Parameters of transformers' expert modules.
GATE_UP, UP, DOWN = "gate_up_proj", "up_proj", "down_proj"
BIAS = "_bias"  # what those of their biases end with
CODES = ("_blocks", "_scales")  # the same for codes of MXFP4 and their scales
_SLICE = re.compile(r"(?P<whole>.+)\[(?P<number>\d+)\]")
_OF_EXPERTS = re.compile(rf"\.({GATE_UP}|{DOWN})({BIAS})?\[(\d+)\]$")
_OF_AN_EXPERT = re.compile(rf"\.(\d+)\.({GATE_UP}|{DOWN})\.(weight|bias)$")


def slice_name(whole: str, number: int) -> str:
    """Returns the name of one slice of a tensor."""
    return f"{whole}[{number}]"


def whole_name(name: str) -> str:
    """Returns the name under which a file holds a tensor or a slice."""
    return place(name)[0]


def place(name: str) -> tuple[str, int]:
    """Returns the name of the stored tensor and the number of the slice in it; -1 for a whole tensor. Names
    sorted by their places are in the order of the bytes."""
    found = _SLICE.fullmatch(name)
    return (name, -1) if found is None else (found["whole"], int(found["number"]))


def slices_of(name: str, shape: tuple[int, ...]) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Yields name and shape of every slice of a stored tensor, along its first dimension."""
    yield from ((slice_name(name, number), shape[1:]) for number in range(shape[0]))


def stored_apart(known: Collection[str]) -> frozenset[str]:
    """Returns the names of the stored tensors of which `known` has slices."""
    return frozenset(whole for whole, number in map(place, known) if number >= 0)


def values_apart(name: str, tensor: "Tensor", sliced: Collection[str]) -> Iterator[tuple[str, "Tensor"]]:
    """Yields a stored tensor, or each of its slices with its name if the tensor is among `sliced`."""
    if name not in sliced:
        yield name, tensor
        return
    for number, part in enumerate(tensor):
        yield slice_name(name, number), part


def joined(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[tuple[int, ...], list[str]]]:
    """Puts slices together: for each tensor of a file its shape and the names that it consists of, in the
    order of their bytes. `shapes`: of tensors and slices, by name."""
    found: dict[str, list[tuple[int, str, tuple[int, ...]]]] = {}
    for name, shape in shapes.items():
        whole, number = place(name)
        found.setdefault(whole, []).append((number, name, shape))
    made: dict[str, tuple[tuple[int, ...], list[str]]] = {}
    for whole, parts in found.items():
        parts.sort()
        numbers = [number for number, _, _ in parts]
        if numbers == [-1]:
            made[whole] = (parts[0][2], [whole])
            continue
        assert numbers == list(range(len(parts))), f"slices of {whole}: {numbers}"
        made[whole] = ((len(parts), *parts[0][2]), [name for _, name, _ in parts])
    return made


def sliced_name(name: str) -> str:
    """Returns the name in a checkpoint that stores the experts of a block in one tensor, for a matrix or bias
    by its own name."""
    return _OF_AN_EXPERT.sub(lambda found: f".{found[2]}{BIAS * (found[3] == 'bias')}[{found[1]}]", name)


def matrix_name(name: str) -> str:
    """Returns the own name of a matrix or bias of an expert, for a slice; any other name as it is."""
    return _OF_EXPERTS.sub(lambda found: f".{found[3]}.{found[1]}.{'bias' if found[2] else 'weight'}", name)


def is_sliced(row: Architecture, name: str) -> bool:
    """Tells whether a stored tensor holds all experts of a block, so that a checkpoint's index has its
    slices. `name`: in the checkpoint."""
    if row.experts is None or not row.experts.together:
        return False
    endings = "|".join((BIAS, *CODES))
    return re.search(rf"\.{re.escape(row.experts.module)}\.({GATE_UP}|{DOWN})({endings})?$", name) is not None
