"""The names of devices, which figures are reported with."""

import torch


def device_name(device: torch.device) -> str:
    """`cpu`, or the model of the GPU as its driver names it."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
