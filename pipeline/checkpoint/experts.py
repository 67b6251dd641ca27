"""Experts one by one, as checkpoints store them, and fused, as transformers' modules hold them.

    the module     <block>.mlp.experts.gate_up_proj [E, 2F, H]     gate above up
                   <block>.mlp.experts.down_proj    [E, H, F]
    a checkpoint   <block>.mlp.experts.0.gate_proj.weight [F, H], ...up_proj..., ...down_proj... [H, F]

All code outside of the module (statistics, methods, keep tensors, stored blocks) uses only the matrices of a
checkpoint. Fusing is differentiable. Experts without a gate have up_proj [E, F, H] instead of gate_up_proj.

A checkpoint may also store what the module holds, and then each matrix is a slice of it (slices.py). Where
gate and up take turns (GPT-OSS), it always does:

    the module     <block>.mlp.experts.gate_up_proj [E, H, 2F], ...gate_up_proj_bias [E, 2F]
                   <block>.mlp.experts.down_proj    [E, F, H],  ...down_proj_bias    [E, H]
    one by one     <block>.mlp.experts.0.gate_up_proj.weight [H, 2F], ...gate_up_proj.bias [2F] ...
    a checkpoint   <block>.mlp.experts.gate_up_proj[0] [H, 2F], ...gate_up_proj_bias[0] [2F] ...

Shape legend: E experts, F an expert's intermediate size, H hidden size.
"""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from pipeline.architecture.row import Experts
from pipeline.checkpoint.slices import BIAS, DOWN, GATE_UP, entering_parameter


def stored_names(experts: Experts, name: str, shape: torch.Size) -> tuple[str, ...]:
    """Returns the stored matrices of a block's fused parameter, by names inside the block; for any other
    parameter, its own name."""
    for parameter, linears in _parameters(experts).items():
        if name == f"{experts.module}.{parameter}":
            return tuple(f"{linear}.weight" for e in range(shape[0]) for linear in linears(e))
        if name == f"{experts.module}.{parameter}{BIAS}":
            return tuple(f"{linear}.bias" for e in range(shape[0]) for linear in linears(e))
    return (name,)


def stored_shape(experts: Experts | None, name: str, shape: torch.Size) -> tuple[int, ...]:
    """Returns the shape of each stored matrix of a block's parameter. `name`: its name inside the block."""
    if experts is None or not name.startswith(f"{experts.module}."):
        return tuple(shape)
    if name == f"{experts.module}.{GATE_UP}" and not experts.together:
        return (shape[1] // 2, shape[2])
    return tuple(shape[1:])


def fused(experts: Experts | None, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Turns a block's tensors by stored names into tensors by the names of its module's parameters."""
    count = 0 if experts is None else experts.count(tensors)
    if experts is None or count == 0:
        return dict(tensors)
    made: dict[str, Tensor] = {}
    taken: set[str] = set()
    for parameter, linears in _parameters(experts).items():
        for kind, ending in (("weight", ""), ("bias", BIAS)):
            names = [f"{linear}.{kind}" for e in range(count) for linear in linears(e)]
            if names[0] in tensors:
                parts = torch.cat([tensors[name] for name in names])
                made[f"{experts.module}.{parameter}{ending}"] = parts.unflatten(0, (count, -1))
                taken.update(names)
    return {**{name: tensor for name, tensor in tensors.items() if name not in taken}, **made}


def slot(experts: Experts | None, parameters: Mapping[str, Tensor], name: str) -> Tensor:
    """Returns the view of the module's parameters that holds a stored tensor. `name` is its name inside the
    block."""
    linear, _, kind = name.rpartition(".")
    if experts is None or not experts.owns(linear):
        return parameters[name]
    expert = experts.number(linear)
    ending = BIAS if kind == "bias" else ""
    if linear in experts.leaving(expert):
        return parameters[f"{experts.module}.{DOWN}{ending}"][expert]
    together = experts.entering(expert)
    whole = parameters[f"{experts.module}.{entering_parameter(experts)}{ending}"][expert]
    return whole.chunk(len(together))[together.index(linear)]


def _parameters(experts: Experts) -> dict[str, Callable[[int], tuple[str, ...]]]:
    """Maps the module's parameters to the linears of one expert in each."""
    return {entering_parameter(experts): experts.entering, DOWN: experts.leaving}
