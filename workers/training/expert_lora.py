"""LoRA on the experts of a block, masked as in lora.py.

transformers holds a matrix of all experts in one parameter [E, O, I], such as gate above up, and its modules
read it as an attribute while they run. An adapted module is of a subclass in which that attribute is

    W + alpha / rank · (B·A where kept)        A [E, R, I], B [E, O, R]

so that whatever runs experts (a loop, a grouped product) runs the adapted ones. It is one tensor per block
and forward pass, which stands until the backward pass is through the block.

peft's `target_parameters` adapts the same parameters in the same way without a mask; it stores A as [R·E, I]
and B as [O, E·R], and so does the published adapter.

Shape legend: E experts, O out_features, I in_features, R rank.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.architecture.row import Architecture
from pipeline.checkpoint.slices import DOWN, GATE_UP
from pipeline.spec.recovery import Lora
from workers.training.held import HeldKeep, cleared, keep_of_parameter

PARAMETERS = (GATE_UP, DOWN)  # in the order in which peft nests the adapters of one module
A, B = "_lora_A", "_lora_B"  # after the name of the parameter


@dataclass(frozen=True)
class Slice:
    """A matrix [rows, columns] that lies in a trained parameter from `start` on, flattened."""

    name: str
    start: int
    shape: tuple[int, int]


class _Adapted(nn.Module):
    """The part of an adapted module's class that is ours. `scale`: alpha / rank. `held`: keep tensors by
    parameter."""

    scale: float
    held: dict[str, HeldKeep]

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Runs the experts with their adapted weights."""
        self.__dict__["_now"] = {name: self._whole(name) for name in PARAMETERS}
        try:
            return super().forward(*args, **kwargs)
        finally:
            self.__dict__["_now"] = {}

    def __getattr__(self, name: str) -> Any:
        now = self.__dict__.get("_now")
        return now[name] if now and name in now else super().__getattr__(name)

    def _whole(self, name: str) -> Tensor:
        a_ERI, b_EOR = self._parameters[f"{name}{A}"], self._parameters[f"{name}{B}"]
        base = self._parameters[name]
        assert a_ERI is not None
        assert b_EOR is not None
        assert base is not None
        update = torch.matmul(b_EOR, a_ERI) * self.scale
        held = self.held.get(name)
        return base + (update if held is None else cleared(update, held))


def adapts_experts(lora: Lora, row: Architecture) -> bool:
    """Tells whether experts are among the linears that are adapted."""
    return row.experts is not None and row.experts.stored in (lora.linears or ())


def experts_of(trained: Iterable[str]) -> tuple[str, ...]:
    """Returns the paths of all modules with adapted experts, from the names of trained parameters."""
    end = f".{DOWN}{A}"
    return tuple(name.removesuffix(end) for name in trained if name.endswith(end))


def adapt_experts(
    model: nn.Module,
    row: Architecture,
    lora: Lora,
    keeps: Mapping[str, Tensor],
    stored: Mapping[str, Sequence[str]],
) -> None:
    """Add adapters to the experts of every block that has some, in place. `stored`: parameter → the
    checkpoint names of the matrices that it consists of. B starts at zero."""
    assert row.experts is not None, "resolve has looked at the linears"
    for path, module in model.named_modules():
        if not path.endswith(f".{row.experts.module}"):
            continue
        held = {}
        for name in PARAMETERS:
            parameter, disks = module.get_parameter(name), stored[f"{path}.{name}"]
            count, out_features, in_features = getattr(parameter, "ds_shape", parameter.shape)
            a_ERI = torch.empty(count, lora.rank, in_features)
            nn.init.uniform_(a_ERI, -1 / math.sqrt(in_features), 1 / math.sqrt(in_features))  # as peft does
            b_EOR = torch.zeros(count, out_features, lora.rank)
            for suffix, values in ((A, a_ERI), (B, b_EOR)):
                made = nn.Parameter(values.to(parameter.device, parameter.dtype))
                module.register_parameter(f"{name}{suffix}", made)
            if any(disk in keeps for disk in disks):
                keep = keep_of_parameter(disks, keeps, (count, out_features, in_features))
                held[name] = HeldKeep(keep, parameter.device)
        kind = type(module)
        module.__class__ = type(f"Adapted{kind.__name__}", (_Adapted, kind), {})
        module.scale, module.held = lora.alpha / lora.rank, held


def slices(
    name: str, disks: Sequence[str], shapes: Mapping[str, tuple[int, ...]]
) -> Iterator[tuple[str, tuple[Slice, Slice]]]:
    """Yield the checkpoint name of each matrix of an adapted parameter, with its A [R, I] and B [O, R].
    `disks`: the matrices, one after the other; `shapes`: of trained parameters."""
    a, b = f"{name}{A}", f"{name}{B}"
    _, rank, in_features = shapes[a]
    count, out_features, _ = shapes[b]
    each = len(disks) // count  # 2 where gate and up are one parameter
    rows = out_features // each
    for number, disk in enumerate(disks):
        own_a = Slice(a, number // each * rank * in_features, (rank, in_features))
        own_b = Slice(b, number * rows * rank, (rows, rank))
        yield disk, (own_a, own_b)


def peft_tensors(trained: Mapping[str, Tensor], path: str, place: str) -> Iterator[tuple[str, Tensor]]:
    """Yield the matrices of the experts at `path` as peft stores them, by its names for a module at
    `place`."""
    nested = dict(zip(PARAMETERS, (".base_layer", ""), strict=True))
    for name in PARAMETERS:
        a_ERI, b_EOR = (trained[f"{path}.{name}{suffix}"].float().cpu() for suffix in (A, B))
        yield f"{place}{nested[name]}.lora_A.weight", a_ERI.flatten(0, 1).contiguous()
        yield f"{place}{nested[name]}.lora_B.weight", b_EOR.permute(1, 2, 0).flatten(1).contiguous()
