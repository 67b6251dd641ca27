"""A crew in this process: its workers execute each call at once, one after the other."""

from collections.abc import Callable, Sequence
from typing import Concatenate, ParamSpec, TypeVar, cast

import torch
from torch import Tensor

from pipeline.artifacts.refs import CheckpointRef
from pipeline.blocks.activations import MemoryBudget
from pipeline.blocks.crew import Crew, CrewUse, Pending, shares_of, together
from pipeline.blocks.worker import SweepWorker
from pipeline.storage.content import ContentStore
from pipeline.tensor.statistics import share_edges

P = ParamSpec("P")
Answer = TypeVar("Answer")
Part = TypeVar("Part")


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

    def ask_with(
        self,
        worker: int,
        method: Callable[Concatenate[SweepWorker, Sequence[Part], P], Answer],
        parts: Sequence[Pending[Part]],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> Pending[Answer]:
        """Calls a method of one worker, now, with earlier answers."""
        with torch.no_grad():
            return Pending(method(self.workers[worker], self.answers(parts), *args, **kwargs))

    def answers(self, pending: Sequence[Pending[Answer]]) -> list[Answer]:
        """Returns the answers, which are all there already."""
        return [cast(Answer, one.held) for one in pending]

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
