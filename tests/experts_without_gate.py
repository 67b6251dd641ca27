"""The matrices of experts without a gate, and what they see, for pruned_by_loops.py."""

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

Rows = dict[str, list[np.ndarray]]
PLACE = "mixer.experts"


def matrices_of(experts: nn.Module) -> dict[str, Tensor]:
    """Views of what the module holds fused, by stored names inside the block."""
    return {
        f"{PLACE}.{number}.{name}": matrix
        for name in ("up_proj", "down_proj")
        for number, matrix in enumerate(experts.get_parameter(name))
    }


def inputs_of(model: PreTrainedModel, experts: nn.Module, sequences: list[Tensor]) -> Rows:
    """Of each sequence what each matrix of each expert sees, token by token, [T, I]."""
    found: Rows = {name: [] for name in matrices_of(experts)}

    def hook(_: nn.Module, args: tuple[Tensor, ...]) -> None:
        x_TH, chosen_TK, _weights = args
        for number, up in enumerate(experts.get_parameter("up_proj")):
            own_TH = x_TH[torch.tensor([number in chosen for chosen in chosen_TK.tolist()], dtype=torch.bool)]
            inner_TF = torch.stack([(up @ x_H).clamp(min=0).square() for x_H in own_TH] or [up[:0, 0]])
            found[f"{PLACE}.{number}.up_proj"].append(own_TH.numpy().copy())
            found[f"{PLACE}.{number}.down_proj"].append(inner_TF.reshape(-1, len(up)).numpy().copy())

    handle = experts.register_forward_pre_hook(hook)
    for tokens in sequences:
        model(input_ids=tokens[None], use_cache=False)
    handle.remove()
    return found
