"""Slices of stored tensors, as tensors of their own.

Some checkpoints store the matrices of all experts of a block in one tensor. Here everything works on
matrices, so that the index of a checkpoint has an entry for each, whose name says its place in brackets:

    a file      model.layers.0.mlp.experts.down_proj    [E, H, F]
    the index   model.layers.0.mlp.experts.down_proj[3] [H, F]
    a file      model.layers.0.mlp.experts.gate_up_proj       [E, 2F, H]     gate above up
    the index   model.layers.0.mlp.experts.gate_up_proj[3, 1] [F, H]         up of expert 3

Slices lie one after the other in their tensor. So each has a byte range and a digest of its own, and a file
is written from them in their order.

Shape legend: E experts, F an expert's intermediate size, H hidden size.
"""

import re
from collections.abc import Collection, Iterator, Mapping
from itertools import product
from typing import TYPE_CHECKING

from pipeline.architecture.row import Architecture, Experts

if TYPE_CHECKING:
    from torch import Tensor

# Parameters of transformers' expert modules.
GATE_UP, UP, DOWN = "gate_up_proj", "up_proj", "down_proj"
BIAS = "_bias"  # what those of their biases end with
CODES = ("_blocks", "_scales")  # the same for codes of MXFP4 and their scales
_SLICE = re.compile(r"(?P<whole>.+)\[(?P<place>\d+(, \d+)?)\]")

Shape = tuple[int, ...]
Place = tuple[int, ...]  # the number of the expert, and that of its part if it has several; () for no slice


def slice_name(whole: str, at: Place) -> str:
    """Returns the name of one slice of a tensor."""
    return f"{whole}[{', '.join(map(str, at))}]"


def place(name: str) -> tuple[str, Place]:
    """Returns the name of the stored tensor, and the place of a slice in it. Names sorted by it are in the
    order of the bytes."""
    found = _SLICE.fullmatch(name)
    return (name, ()) if found is None else (found["whole"], tuple(map(int, found["place"].split(", "))))


def whole_name(name: str) -> str:
    """Returns the name under which a file holds a tensor or a slice."""
    return place(name)[0]


def slices_of(name: str, shape: Shape, parts: int) -> Iterator[tuple[str, Shape]]:
    """Yields name and shape of every slice of a stored tensor: one for each index of its first dimension, or
    `parts` for each, along the second."""
    inner = (shape[1] // parts, *shape[2:])
    for at in product(range(shape[0]), *([range(parts)] if parts > 1 else [])):
        yield slice_name(name, at), inner


def stored_apart(known: Collection[str]) -> dict[str, int]:
    """Returns the names of the stored tensors of which `known` has slices, with their parts (slices_of)."""
    found: dict[str, int] = {}
    for whole, at in map(place, known):
        if at:
            found[whole] = max(found.get(whole, 1), at[1] + 1 if len(at) > 1 else 1)
    return found


def values_apart(name: str, tensor: "Tensor", sliced: Mapping[str, int]) -> Iterator[tuple[str, "Tensor"]]:
    """Yields a stored tensor, or each of its slices with its name if the tensor is among `sliced`."""
    if name not in sliced:
        yield name, tensor
        return
    matrices = [matrix for one in tensor for matrix in one.chunk(sliced[name])]
    names = (part for part, _ in slices_of(name, tuple(tensor.shape), sliced[name]))
    yield from zip(names, matrices, strict=True)


def joined(shapes: Mapping[str, Shape]) -> dict[str, tuple[Shape, list[str]]]:
    """Puts slices together: for each tensor of a file its shape and the names that it consists of, in the
    order of their bytes. `shapes`: of tensors and slices, by name."""
    found: dict[str, list[tuple[Place, str]]] = {}
    for name in shapes:
        whole, at = place(name)
        found.setdefault(whole, []).append((at, name))
    made: dict[str, tuple[Shape, list[str]]] = {}
    for whole, slices in found.items():
        slices.sort()
        names = [name for _, name in slices]
        inner = shapes[names[0]]
        if names == [whole]:
            made[whole] = (inner, names)
            continue
        *_, last = (at for at, _ in slices)
        parts = last[1] + 1 if len(last) > 1 else 1
        shape = (last[0] + 1, parts * inner[0], *inner[1:])
        assert [name for name, _ in slices_of(whole, shape, parts)] == names, f"slices of {whole}: {names}"
        made[whole] = (shape, names)
    return made


def parts_of_an_expert(row: Architecture, name: str) -> int:
    """Returns how many slices each expert has in a stored tensor that holds all experts of a block; 0 for
    every other tensor. `name`: in the checkpoint."""
    if row.experts is None:
        return 0
    endings = "|".join((BIAS, *CODES)) if row.experts.interleaved else ""
    first = entering_parameter(row.experts)
    found = re.search(rf"\.{re.escape(row.experts.module)}\.({first}|{DOWN})({endings})?$", name)
    if found is None:
        return 0
    return 1 if row.experts.together or found[1] != GATE_UP else 2


def entering_parameter(experts: Experts) -> str:
    """Returns the parameter of transformers' module with the matrices that an expert's tokens enter."""
    return UP if experts.gate is None else GATE_UP


def sliced_name(experts: Experts | None, name: str) -> str | None:
    """Returns the name that a matrix or bias of an expert has in a checkpoint which stores the experts of a
    block in one tensor; None for any other tensor. `name`: its own, in the block or with what is before."""
    found = None if experts is None else re.search(rf"{re.escape(experts.stored)}\.(\d+)\.\w+\.(\w+)$", name)
    if experts is None or found is None:
        return None
    before, linear, expert = name[: found.start()], found[0].removesuffix(f".{found[2]}"), int(found[1])
    ending = BIAS if found[2] == "bias" else ""
    if linear in experts.leaving(expert):
        return slice_name(f"{before}{experts.module}.{DOWN}{ending}", (expert,))
    entering = experts.entering(expert)
    part = (entering.index(linear),) if len(entering) > 1 else ()
    return slice_name(f"{before}{experts.module}.{entering_parameter(experts)}{ending}", (expert, *part))


def matrix_name(experts: Experts | None, name: str) -> str:
    """Returns the own name of a matrix or bias of an expert, for a slice; any other name as it is."""
    whole, at = place(name)
    if experts is None or not at:
        return name
    kind = "bias" if whole.endswith(BIAS) else "weight"
    before, _, parameter = whole.removesuffix(BIAS).rpartition(".")
    linears = experts.leaving(at[0]) if parameter == DOWN else experts.entering(at[0])
    return f"{before.removesuffix(experts.module)}{linears[at[-1] if len(at) > 1 else 0]}.{kind}"
