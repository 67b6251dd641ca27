"""A crew: the workers that walk the blocks of one model together, wherever they run.

The loops of this folder talk to a `Crew`. `LocalCrew` (local.py) calls its workers in this process; `RayCrew`
(workers/gang/crew.py) calls actors of a Ray cluster. Both run the same methods of `SweepWorker`, and every
result is merged in the order of the samples, so that the bits do not depend on which worker did what.

    crew.tell(SweepWorker.load, block)                  every worker, without waiting
    parts = crew.all(SweepWorker.similarities)          every worker; their answers, in order
    block = crew.ask(0, SweepWorker.store, ...)         one worker; the answer may still be pending
    [block] = crew.wait([block])                        the answers themselves

What is large goes from worker to worker, and never through the caller:

    crew.sum_up(SweepWorker.gram, SweepWorker.take_gram, [1], group)    worker 1 takes the sum of all grams
    crew.spread(SweepWorker.chosen, SweepWorker.apply, [0, 1], ...)     both take what the other one chose
    crew.measure(...)                                                   all take what the others measured
"""

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Concatenate, Generic, ParamSpec, Protocol, TypeVar, cast

from torch import Tensor

from pipeline.blocks.block import ChosenLinear
from pipeline.blocks.worker import SweepWorker
from pipeline.tensor.gains import GainShare
from pipeline.tensor.needs import Needs
from pipeline.tensor.statistics import Gram, InputShare, share_edges

P = ParamSpec("P")
Answer = TypeVar("Answer")
Answer_co = TypeVar("Answer_co", covariant=True)
Parcel = TypeVar(
    "Parcel", bound=ChosenLinear | InputShare | GainShare
)  # what workers send one another, by name
Item = TypeVar("Item")


@dataclass(frozen=True)
class Pending(Generic[Answer_co]):
    """The answer to a call, which may still be on its way. `held` is the crew's own reference to it."""

    held: object


@dataclass(frozen=True)
class CrewUse:
    """The resources that a stage used. `peak_bytes` and `idle_bytes`: resident memory of the worker that
    needed most, at the stage's peak and before the stage began. `spilled_bytes`: its activations on the local
    disk. `forwards`: how often a sample passed through a whole block, over all workers; `cut_forwards`: how
    often it passed only up to the last measured input. Forwards of fitting are not counted. `device`: `cpu`,
    or the name of the GPU; several kinds are joined. `gpu_bytes`: the most that tensors held on the GPU of
    the worker that needed most, 0 on a CPU. `carried_bytes`: the tensors in calls and answers, which pass
    through the driver and its cluster's object store. `exchanged_bytes`: the tensors that workers sent one
    another. Both are 0 in one process."""

    peak_bytes: int
    idle_bytes: int
    spilled_bytes: int
    forwards: int
    cut_forwards: int
    device: str
    gpu_bytes: int = 0
    carried_bytes: int = 0
    exchanged_bytes: int = 0

    @property
    def details(self) -> Mapping[str, float]:
        """These figures as a stage's result stores them."""
        on_gpu = {"gpu_memory_bytes": float(self.gpu_bytes)} if self.gpu_bytes else {}
        return {
            **on_gpu,
            "idle_memory_bytes": float(self.idle_bytes),
            "spilled_bytes": float(self.spilled_bytes),
            "forwards": float(self.forwards),
            "cut_forwards": float(self.cut_forwards),
            "carried_bytes": float(self.carried_bytes),
            "exchanged_bytes": float(self.exchanged_bytes),
        }


def together(uses: Sequence[CrewUse]) -> CrewUse:
    """Combines the use of all workers: memory of the worker that needed most, forwards and devices of all."""
    return replace(
        max(uses, key=lambda one: one.peak_bytes),
        forwards=sum(one.forwards for one in uses),
        cut_forwards=sum(one.cut_forwards for one in uses),
        device=" + ".join(sorted({one.device for one in uses})),
        gpu_bytes=max(one.gpu_bytes for one in uses),
        carried_bytes=sum(one.carried_bytes for one in uses),
        exchanged_bytes=sum(one.exchanged_bytes for one in uses),
    )


class Crew(Protocol):
    """`size` workers on one checkpoint of `blocks` blocks. Each holds a contiguous share of the sequences and
    executes its calls in their order. `label` describes the current work for people. `reproducible`: sums
    have the same bits for any number of workers; otherwise they are made in whatever order is fastest."""

    size: int
    blocks: int
    label: str
    reproducible: bool
    _told: list[Pending[None]]

    def ask(
        self,
        worker: int,
        method: Callable[Concatenate[SweepWorker, P], Answer],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> Pending[Answer]:
        """Calls a method of one worker."""
        ...

    def sum_up(
        self,
        give: Callable[Concatenate[SweepWorker, P], Gram],
        take: Callable[Concatenate[SweepWorker, Tensor, P], None],
        to: Sequence[int],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> None:
        """Adds up, in sample order, the parts that `give` returns on every worker, and calls `take` with the
        sum on the workers `to`. Does not wait; an error is raised by the next `wait`."""
        ...

    def spread(
        self,
        give: Callable[Concatenate[SweepWorker, P], Mapping[str, Parcel]],
        take: Callable[[SweepWorker, Sequence[Mapping[str, Parcel]]], None],
        to: Sequence[int],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> None:
        """Calls `give` on every worker, and `take` on the workers `to` with what the others gave, in the
        order of the workers. Does not wait; an error is raised by the next `wait`."""
        ...

    def answers(self, pending: Sequence[Pending[Answer]]) -> list[Answer]:
        """Waits for answers. The first error that a worker raises is raised here, also if another worker's
        answer never comes because of it."""
        ...

    def leaving(self) -> bool:
        """Tells whether the machine of one of the workers is about to be taken away."""
        ...

    def use(self) -> CrewUse:
        """Returns the resources that the crew has used since it was opened."""
        ...

    def hear(self, pending: Pending[None]) -> None:
        """Makes the next `wait` raise the error of this call, if it fails."""
        self._told.append(pending)

    def wait(self, pending: Sequence[Pending[Answer]]) -> list[Answer]:
        """Waits for answers, and for all calls that were made with `tell` before. Raises their errors."""
        earlier, self._told = self._told, []
        watched: list[Pending[Answer | None]] = [*earlier, *pending]
        found = self.answers(watched)[len(earlier) :]
        return cast(list[Answer], found)

    def answer(self, pending: Pending[Answer]) -> Answer:
        """Waits for one answer, like `wait`."""
        [answer] = self.wait([pending])
        return answer

    def tell(
        self, method: Callable[Concatenate[SweepWorker, P], None], *args: P.args, **kwargs: P.kwargs
    ) -> None:
        """Calls a method of every worker without waiting, so that no worker is idle meanwhile. An error is
        raised by the next `wait`."""
        for worker in range(self.size):
            self.hear(self.ask(worker, method, *args, **kwargs))

    def all(
        self, method: Callable[Concatenate[SweepWorker, P], Answer], *args: P.args, **kwargs: P.kwargs
    ) -> list[Answer]:
        """Calls a method of every worker at once and returns their answers, in the order of the workers."""
        return self.wait([self.ask(worker, method, *args, **kwargs) for worker in range(self.size)])

    def measure(self, *, advance: bool, needs: Needs) -> None:
        """Runs the loaded block on all samples, after which every worker has the statistics of each group of
        linears, merged in sample order. Grams stay where they were made, for `sum_up`."""
        self.spread(SweepWorker.measure, SweepWorker.merge, range(self.size), advance=advance, needs=needs)

    def similarity(self) -> float:
        """Returns the mean cosine similarity of the block's input and output over all samples; `measure`
        found it."""
        found = [one for share in self.all(SweepWorker.similarities) for one in share]
        return sum(found) / len(found)

    def reach(self, group: int, *, needs: Needs) -> None:
        """Runs the loaded block on all samples until a group's inputs are known, after which every worker has
        their statistics."""
        self.spread(SweepWorker.reach, SweepWorker.merge, range(self.size), group, needs=needs)

    def shared_out(self, items: Sequence[Item]) -> list[list[Item]]:
        """Splits items into contiguous shares, one per worker, as even as the tree of grams allows."""
        return shares_of(items, self.size)


def shares_of(items: Sequence[Item], workers: int) -> list[list[Item]]:
    """Splits items that belong to the samples into contiguous shares, one per worker."""
    edges = share_edges(len(items), workers)
    return [list(items[first:end]) for first, end in itertools.pairwise(edges)]
