"""The memory that a worker's activations may take."""

import torch

from pipeline.blocks.activations import MemoryBudget
from pipeline.request.resources import Resources
from pipeline.tensor.devices import gpu_room


def activation_budget(resources: Resources, device: torch.device, *, used: int) -> MemoryBudget:
    """Return the budget of a worker whose process takes `used` bytes already: half of the rest of its
    declared memory, and half of its GPU memory. The other halves are for a block and what its method
    needs."""
    room = gpu_room(device, share=resources.gpus_per_worker, declared=resources.gpu_memory_bytes)
    return MemoryBudget(left=max(resources.memory_bytes - used, 0) // 2, on_gpu=room // 2)
