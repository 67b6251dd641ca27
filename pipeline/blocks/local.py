"""A crew in this process: its workers execute each call at once, one after the other."""

from collections.abc import Callable, Mapping, Sequence
from typing import Concatenate, ParamSpec, TypeVar, cast

import torch
from torch import Tensor

from pipeline.artifacts.refs import CheckpointRef
from pipeline.blocks.activations import MemoryBudget
from pipeline.blocks.crew import Crew, CrewUse, Parcel, Pending, shares_of, together
from pipeline.blocks.worker import SweepWorker
from pipeline.storage.content import ContentStore
from pipeline.tensor.statistics import Gram, share_edges, tree_sum

P = ParamSpec("P")
Answer = TypeVar("Answer")


class LocalCrew(Crew):
    """One or several SweepWorkers, `workers`, on one device. Several give the same bits as one; they exist to
    prove that.

    `peak_memory` returns the highest resident memory of this process so far, in bytes; the memory that is
    resident when the crew is created counts as idle. Without it the crew reports no memory.
    """

    def __init__(
        self,
        content: ContentStore,
        checkpoint: CheckpointRef,
        sequences: Sequence[Tensor],
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device | None = None,
        workers: int = 1,
        budget: MemoryBudget | None = None,
        peak_memory: Callable[[], int] | None = None,
    ) -> None:
        self.size = workers
        self.label = ""
        self.reproducible = True
        self._told = []
        self._peak_memory = peak_memory
        self._idle_bytes = peak_memory() if peak_memory is not None else 0
        edges = share_edges(len(sequences), workers)
        self.workers = [
            SweepWorker(
                content,
                checkpoint,
                share,
                dtype=dtype,
                device=device or torch.device("cpu"),
                first=edges[i],
                samples=len(sequences),
                budget=budget,
            )
            for i, share in enumerate(shares_of(sequences, workers))
        ]
        [self.blocks, *_] = self.all(SweepWorker.start)

    def ask(
        self,
        worker: int,
        method: Callable[Concatenate[SweepWorker, P], Answer],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> Pending[Answer]:
        """Calls a method of one worker, now."""
        with torch.no_grad():
            return Pending(method(self.workers[worker], *args, **kwargs))

    def sum_up(
        self,
        give: Callable[Concatenate[SweepWorker, P], Gram],
        take: Callable[Concatenate[SweepWorker, Tensor, P], None],
        to: Sequence[int],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> None:
        """Adds up, now, what all workers give, always in the reproducible order."""
        with torch.no_grad():
            total = tree_sum([give(worker, *args, **kwargs) for worker in self.workers])
            for worker in to:
                take(self.workers[worker], total, *args, **kwargs)

    def spread(
        self,
        give: Callable[Concatenate[SweepWorker, P], Mapping[str, Parcel]],
        take: Callable[[SweepWorker, Sequence[Mapping[str, Parcel]]], None],
        to: Sequence[int],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> None:
        """Hands on, now, what all workers give."""
        with torch.no_grad():
            given = [give(worker, *args, **kwargs) for worker in self.workers]
            for worker in to:
                take(self.workers[worker], [*given[:worker], *given[worker + 1 :]])

    def answers(self, pending: Sequence[Pending[Answer]]) -> list[Answer]:
        """Returns the answers, which are all there already."""
        return [cast(Answer, one.held) for one in pending]

    def leaving(self) -> bool:
        """Tells nothing: nobody announces the end of a process to it in time."""
        return False

    def use(self) -> CrewUse:
        """Returns the resources that this process has used for the crew."""
        peak = self._peak_memory() if self._peak_memory is not None else 0
        return together(
            [
                CrewUse(
                    peak,
                    self._idle_bytes,
                    one.spilled(),
                    one.runs["whole"],
                    one.runs["cut"],
                    one.device_name,
                    one.gpu_peak(),
                )
                for one in self.workers
            ]
        )
