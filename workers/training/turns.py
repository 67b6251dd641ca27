"""A checkpoint is read once by all workers together: one of them reads a tensor, and sends it to the others,
or to each its share.

Every worker reads its next tensor ahead, while the others send theirs, so that a model comes in as fast as
all workers together can read and verify it.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType

import torch
from torch import Tensor

from pipeline.errors import SecateurError
from workers.training import ranks


class Turns:
    """Reads tensors in a given order. Worker r of W reads every W-th of them, from the r-th on."""

    def __init__(self, read: Callable[[str], Tensor], names: Sequence[str]) -> None:
        self._read = read
        self._own = iter(names[ranks.rank() :: ranks.workers()])
        self._taken = 0
        self._ahead = ThreadPoolExecutor(1, thread_name_prefix="read-ahead")
        self._next = self._begin()

    def __enter__(self) -> "Turns":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ahead.shutdown(cancel_futures=True)

    def fill(self, place: Tensor) -> None:
        """Fill a contiguous tensor with the next one of the order. All workers call it.

        Raises the error of the worker that could not read it, on all of them.
        """
        reader = self._taken % ranks.workers()
        self._take(place if reader == ranks.rank() else None, place.device)
        ranks.sent_from(reader, place)

    def hand_out(self, own: Tensor, edges: Sequence[int], device: torch.device) -> None:
        """Hand out the next tensor of the order, flattened: worker r gets its elements from edges[r] to
        edges[r + 1] into the flat tensor `own`. They are sent from and to memory of `device`. All workers
        call it.

        Raises the error of the worker that could not read it, on all of them.
        """
        reader = self._taken % ranks.workers()
        whole = torch.empty(edges[-1], dtype=own.dtype, device=device) if reader == ranks.rank() else None
        self._take(whole, device)
        arrived = torch.empty_like(own, device=device)
        ranks.handed_out(reader, whole, arrived, edges)
        own.copy_(arrived)

    def _take(self, place: Tensor | None, device: torch.device) -> None:
        """Read the next tensor into `place`, on the worker that has one."""
        self._taken += 1
        failed: SecateurError | None = None
        if place is not None:
            assert self._next is not None, "each name is taken once"
            try:
                place.view(-1).copy_(self._next.result().reshape(-1))
            except SecateurError as error:
                failed = error
            self._next = self._begin()
        if ranks.largest([float(failed is not None)], device)[0]:
            ranks.raise_together(failed)

    def _begin(self) -> Future[Tensor] | None:
        name = next(self._own, None)
        return None if name is None else self._ahead.submit(self._read, name)
