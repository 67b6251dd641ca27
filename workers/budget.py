"""The memory that a worker's activations may take."""

import torch

from pipeline.blocks.activations import MemoryBudget
from pipeline.request.parts import WorkerShare
from pipeline.tensor.devices import gpu_room


def activation_budget(share: WorkerShare, device: torch.device, *, used: int) -> MemoryBudget:
    """Return the budget of a worker whose process takes `used` bytes already: half of the rest of its
    declared memory, and half of its GPU memory. The other halves are for a block and what its method
    needs."""
    room = gpu_room(device, share=share.gpus_per_worker, declared=share.gpu_memory_bytes)
    return MemoryBudget(left=max(share.memory_bytes - used, 0) // 2, on_gpu=room // 2)
