"""Devices: their names and memory, which figures are reported with, and numbers read from them.

All functions take the CPU too, where those of GPU memory do nothing and return 0.
"""

from collections.abc import Sequence

import torch
from torch import Tensor


def device_name(device: torch.device) -> str:
    """`cpu`, or the model of the GPU as its driver names it."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def exact_products() -> None:
    """Makes products of float32 matrices exact to float32 in this process: TF32, which rounds their factors
    to 10 bits, stays off on every GPU."""
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False


def read_together(numbers: Sequence[Tensor]) -> list[float]:
    """Returns the values of tensors of one number and one type each, which are all on one device. The host
    waits for that device once, not for every number."""
    if not numbers:
        return []
    found: list[float] = torch.stack(list(numbers)).tolist()
    return found


def settle(device: torch.device) -> None:
    """Waits until all work that was given to a GPU is done, copies to the host included."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def gpu_room(device: torch.device, *, share: float, declared: int | None) -> int:
    """Returns the bytes of GPU memory that a worker may take: `declared`, or the worker's `share` (at most 1)
    of what the device says is free. Declared memory becomes the limit of this process: taking more is an
    out-of-memory error, as on a smaller GPU."""
    if device.type != "cuda":
        return 0
    free, total = torch.cuda.mem_get_info(device)
    if declared is None:
        return int(free * min(share, 1.0))
    torch.cuda.set_per_process_memory_fraction(min(declared / total, 1.0), device)
    return min(declared, free)


def peak_gpu_bytes(device: torch.device) -> int:
    """Returns the most bytes that tensors of this process held on a GPU since `free_gpu`."""
    return int(torch.cuda.max_memory_allocated(device)) if device.type == "cuda" else 0


def free_gpu(device: torch.device) -> None:
    """Gives memory that no tensor holds back to a GPU, and restarts the peak."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
