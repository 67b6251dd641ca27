"""Devices: their names, which figures are reported with, and numbers read from them."""

from collections.abc import Sequence

import torch
from torch import Tensor


def device_name(device: torch.device) -> str:
    """`cpu`, or the model of the GPU as its driver names it."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def read_together(numbers: Sequence[Tensor]) -> list[float]:
    """Returns the values of tensors of one number and one type each, which are all on one device. The host
    waits for that device once, not for every number."""
    if not numbers:
        return []
    found: list[float] = torch.stack(list(numbers)).tolist()
    return found
