"""Communication among the workers of a training run. A single worker needs no process group."""

from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

Item = TypeVar("Item")


def rank() -> int:
    """The number of this worker."""
    return dist.get_rank() if dist.is_initialized() else 0


def workers() -> int:
    """The number of workers."""
    return dist.get_world_size() if dist.is_initialized() else 1


def summed(values: Sequence[float], device: torch.device) -> list[float]:
    """The sums over all workers, in float64."""
    return _reduced(values, device, dist.ReduceOp.SUM)


def largest(values: Sequence[float], device: torch.device) -> list[float]:
    """The maxima over all workers."""
    return _reduced(values, device, dist.ReduceOp.MAX)


def add_up(tensor: Tensor) -> Tensor:
    """Sum a tensor over all workers, in place."""
    if workers() > 1:
        dist.all_reduce(tensor)
    return tensor


def gathered(item: Item) -> list[Item]:
    """Every worker's item, by rank, on all of them."""
    if workers() == 1:
        return [item]
    items: list[Item | None] = [None] * workers()
    dist.all_gather_object(items, item)
    return [one for one in items if one is not None]


def from_first(make: Callable[[], Item]) -> Item:
    """Call `make` on rank 0, and return its result on all workers."""
    item = [make() if rank() == 0 else None]
    if workers() > 1:
        dist.broadcast_object_list(item, src=0)
    assert item[0] is not None
    return item[0]


def _reduced(values: Sequence[float], device: torch.device, how: object) -> list[float]:
    tensor = torch.tensor(values, dtype=torch.float64, device=device)
    if workers() > 1:
        dist.all_reduce(tensor, op=how)
    return tensor.tolist()
