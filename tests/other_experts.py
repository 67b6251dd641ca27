"""The matrices of experts of other kinds than Mixtral's, and what they see, for pruned_by_loops.py: those of
Nemotron-H have no gate, and those of Llama 4 get tokens times what the router says."""

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

Rows = dict[str, list[np.ndarray]]
WITHOUT_GATE, SCALED = "mixer.experts", "feed_forward.experts"
PLACES = (WITHOUT_GATE, SCALED)


def matrices_of(place: str, experts: nn.Module) -> dict[str, Tensor]:
    """Views of what the module holds fused, [O, I], by stored names inside the block."""
    first = "up_proj" if place == WITHOUT_GATE else "gate_up_proj"
    return {
        f"{place}.{number}.{name}": matrix if place == WITHOUT_GATE else matrix.t()
        for name in (first, "down_proj")
        for number, matrix in enumerate(experts.get_parameter(name))
    }


def inputs_of(place: str, model: PreTrainedModel, experts: nn.Module, sequences: list[Tensor]) -> Rows:
    """Of each sequence what each matrix of each expert sees, token by token, [T, I]."""
    matrices = matrices_of(place, experts)
    found: Rows = {name: [] for name in matrices}
    count = len(experts.get_parameter("down_proj"))

    def hook(_: nn.Module, args: tuple[Tensor, ...]) -> None:
        for number in range(count):
            first, last = (name for name in matrices if name.startswith(f"{place}.{number}."))
            if place == WITHOUT_GATE:
                own = [x_H for x_H, chosen in zip(args[0], args[1].tolist(), strict=True) if number in chosen]
            else:
                own = [x_H for x_H in args[0].chunk(count)[number] if x_H.any()]
            inner = [_inner(place, matrices[first] @ x_H) for x_H in own]
            for name, rows in ((first, own), (last, inner)):
                empty = torch.zeros(0, matrices[name].shape[1])
                found[name].append((torch.stack(rows) if rows else empty).numpy().copy())

    handle = experts.register_forward_pre_hook(hook)
    for tokens in sequences:
        model(input_ids=tokens[None], use_cache=False)
    handle.remove()
    return found


def _inner(place: str, opened: Tensor) -> Tensor:
    if place == WITHOUT_GATE:
        return opened.clamp(min=0).square()
    gate, up = opened.chunk(2)
    return up * gate * torch.sigmoid(gate)
