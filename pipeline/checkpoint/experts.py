"""Experts one by one, as checkpoints store them, and fused, as transformers' modules hold them.

    the module     <block>.mlp.experts.gate_up_proj [E, 2F, H]     gate above up
                   <block>.mlp.experts.down_proj    [E, H, F]
    a checkpoint   <block>.mlp.experts.0.gate_proj.weight [F, H], ...up_proj..., ...down_proj... [H, F]

All code outside of the module (statistics, methods, keep tensors, stored blocks) uses only the matrices of a
checkpoint. Fusing is differentiable. Experts without a gate have up_proj [E, F, H] instead of gate_up_proj.

Shape legend: E experts, F an expert's intermediate size, H hidden size.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from pipeline.architecture.row import Experts

GATE_UP, UP, DOWN = "gate_up_proj", "up_proj", "down_proj"  # parameters of transformers' expert modules


def opening(experts: Experts) -> str:
    """Returns the parameter of the module with which a token enters every expert."""
    return UP if experts.gate is None else GATE_UP


def stored_names(experts: Experts, name: str, shape: torch.Size) -> tuple[str, ...]:
    """Returns the stored matrices of a block's fused parameter, by names inside the block; for any other
    parameter, its own name."""
    if name == f"{experts.module}.{opening(experts)}":
        return tuple(f"{linear}.weight" for e in range(shape[0]) for linear in experts.entering(e))
    if name == f"{experts.module}.{DOWN}":
        return tuple(f"{linear}.weight" for e in range(shape[0]) for linear in experts.leaving(e))
    return (name,)


def stored_shape(experts: Experts | None, name: str, shape: torch.Size) -> tuple[int, ...]:
    """Returns the shape of each stored matrix of a block's parameter. `name`: its name inside the block."""
    if experts is not None and name == f"{experts.module}.{opening(experts)}":
        return (shape[1] // len(experts.entering(0)), shape[2])
    if experts is not None and name == f"{experts.module}.{DOWN}":
        return tuple(shape[1:])
    return tuple(shape)


def fused(experts: Experts | None, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Turns a block's tensors by stored names into tensors by the names of its module's parameters."""
    count = 0 if experts is None else experts.count(tensors)
    if experts is None or count == 0:
        return dict(tensors)
    entering = [f"{linear}.weight" for e in range(count) for linear in experts.entering(e)]
    leaving = [f"{linear}.weight" for e in range(count) for linear in experts.leaving(e)]
    others = {name: tensor for name, tensor in tensors.items() if name not in {*entering, *leaving}}
    first = f"{experts.module}.{opening(experts)}"
    return {
        **others,
        first: torch.cat([tensors[n] for n in entering]).unflatten(0, (count, -1)),
        f"{experts.module}.{DOWN}": torch.cat([tensors[n] for n in leaving]).unflatten(0, (count, -1)),
    }


def slot(experts: Experts | None, parameters: Mapping[str, Tensor], name: str) -> Tensor:
    """Returns the view of the module's parameters that holds a stored tensor. `name` is its name inside the
    block."""
    linear = name.removesuffix(".weight")
    if experts is None or not experts.owns(linear):
        return parameters[name]
    expert = experts.number(linear)
    if linear in experts.leaving(expert):
        return parameters[f"{experts.module}.{DOWN}"][expert]
    entering = experts.entering(expert)
    parts = parameters[f"{experts.module}.{opening(experts)}"][expert].chunk(len(entering))
    return parts[entering.index(linear)]
