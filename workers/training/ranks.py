"""Communication among the workers of a training run. A single worker needs no process group.

Tensors go through the group that DeepSpeed uses (NCCL on GPUs). Objects go through a group of their own on
the CPUs, where a worker may wait for as long as another one works: reading, hashing and storing a large model
take longer than NCCL waits. A worker that dies breaks its connections, so nobody waits for it.
"""

from collections.abc import Callable, Sequence
from datetime import timedelta
from functools import cache
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from pipeline.errors import SecateurError

Item = TypeVar("Item")
PATIENCE = timedelta(days=1)


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


def added_on(worker: int, tensor: Tensor) -> Tensor | None:
    """Sum a tensor over all workers, in place. Only `worker` gets the sum, all others None."""
    if workers() > 1:
        dist.reduce(tensor, dst=worker)
    return tensor if rank() == worker else None


def sent_from(worker: int, tensor: Tensor) -> None:
    """Overwrite a contiguous tensor by that of `worker`, on all workers."""
    if workers() > 1:
        dist.broadcast(tensor.view(-1).view(torch.uint8), src=worker)


def handed_out(worker: int, whole: Tensor | None, own: Tensor, edges: Sequence[int]) -> None:
    """Fill the flat tensor `own` of each worker r with the elements of `whole` from edges[r] to edges[r + 1].
    `whole`: the flat tensor of `worker`; the others have none."""
    asked = []
    if whole is None:
        if len(own):
            asked.append(dist.P2POp(dist.irecv, own.view(torch.uint8), worker))
    else:
        for other in range(workers()):
            part = whole[edges[other] : edges[other + 1]]
            if other == worker:
                own.copy_(part)
            elif len(part):
                asked.append(dist.P2POp(dist.isend, part.view(torch.uint8), other))
    for work in dist.batch_isend_irecv(asked) if asked else ():
        work.wait()


def joined(own: Tensor) -> Tensor:
    """Every worker's tensor, in the order of ranks, on all of them: [workers · n] from [n]."""
    if workers() == 1:
        return own
    whole = torch.empty(workers() * len(own), dtype=own.dtype, device=own.device)
    dist.all_gather_into_tensor(whole, own)
    return whole


def gathered(item: Item) -> list[Item]:
    """Every worker's item, by rank, on all of them."""
    if workers() == 1:
        return [item]
    items: list[Item | None] = [None] * workers()
    dist.all_gather_object(items, item, group=_patient())
    return [one for one in items if one is not None]


def from_first(make: Callable[[], Item]) -> Item:
    """Call `make` on rank 0, and return its result on all workers."""
    item = [make() if rank() == 0 else None]
    if workers() > 1:
        dist.broadcast_object_list(item, src=0, group=_patient())
    assert item[0] is not None
    return item[0]


def each(make: Callable[[], Item]) -> list[Item]:
    """Call `make` on every worker at the same time; return all results by rank, on all of them. `make` must
    use no collectives. A SecateurError of one worker is raised on all."""
    made: tuple[Item, ...] = ()
    failed: SecateurError | None = None
    try:
        made = (make(),)
    except SecateurError as error:
        failed = error
    raise_together(failed)
    return [one for (one,) in gathered(made)]


def raise_together(error: SecateurError | None) -> None:
    """Raise the error of the lowest rank that has one, on all workers: none then waits for another one that
    has failed."""
    for (one,) in gathered((error,)):
        if one is not None:
            raise one


@cache
def _patient() -> dist.ProcessGroup:
    return dist.new_group(backend="gloo", timeout=PATIENCE)


def _reduced(values: Sequence[float], device: torch.device, how: object) -> list[float]:
    tensor = torch.tensor(values, dtype=torch.float64, device=device)
    if workers() > 1:
        dist.all_reduce(tensor, op=how)
    return tensor.tolist()
