"""A crew of Ray actors: each holds a SweepWorker in a process of its own."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Concatenate, ParamSpec, TypeVar, cast

import ray
import torch
from ray.actor import ActorHandle
from torch import Tensor
from torch.distributed import Store  # type: ignore[attr-defined] # torch exports it by a star

from pipeline.artifacts.refs import CheckpointRef
from pipeline.blocks.crew import Crew, CrewUse, Parcel, Pending, together
from pipeline.blocks.worker import SweepWorker
from pipeline.checkpoint.skeleton import import_library
from pipeline.request.parts import WorkerShare
from pipeline.spec.model import Dtype
from pipeline.tensor.devices import exact_products, free_gpu
from pipeline.tensor.dtypes import TORCH_DTYPES
from pipeline.tensor.statistics import Gram
from workers.budget import activation_budget
from workers.gang.answers import fetched, tensor_bytes
from workers.gang.peers import MeetingPlace, Peers, join, meeting_place
from workers.kills import Began, began_here
from workers.leaving import leaving_nodes
from workers.memory import give_back, peak_memory_bytes, reset_peak_memory
from workers.settings import WorkerSettings

P = ParamSpec("P")
Answer = TypeVar("Answer")


@ray.remote
class SweepActor:
    """A SweepWorker in a process of its own, with as many threads as it has CPUs."""

    def __init__(self, *, threads: int, cuda: bool) -> None:
        torch.set_num_threads(threads)
        torch.set_grad_enabled(False)
        exact_products()
        import_library()  # before idle memory is measured
        self._device = torch.device("cuda" if cuda else "cpu")
        self._worker: SweepWorker | None = None
        self._peers = Peers()
        self._store: Store | None = None
        self._failure: BaseException | None = None
        self._carried_bytes = 0
        reset_peak_memory()
        self._idle_memory = peak_memory_bytes()

    def meet(self) -> MeetingPlace:
        """Open the place at which the gang's actors become one process group; the first actor does so."""
        self._store, place = meeting_place(ray.util.get_node_ip_address())
        return place

    def join(self, place: MeetingPlace, *, rank: int, size: int, whole_gpus: bool) -> None:
        """Become a member of the gang's process group, once all others do."""
        host = ray.util.get_node_ip_address()
        self._peers = join(place, rank=rank, size=size, host=host, whole_gpus=whole_gpus, store=self._store)

    def began(self) -> Began:
        """The place where this process began."""
        return began_here()

    def open(
        self,
        settings: WorkerSettings,
        checkpoint: CheckpointRef,
        sequences: Sequence[Tensor],
        dtype: Dtype,
        *,
        first: int,
        samples: int,
        share: WorkerShare,
    ) -> None:
        """Begin a stage with a new worker on a checkpoint, which gets its share of the sequences. `share`
        limits its activations: see activation_budget."""
        self.close()
        reset_peak_memory()
        self._failure = None
        self._carried_bytes, self._peers.sent_bytes = tensor_bytes(sequences), 0
        self._worker = SweepWorker(
            settings.content(),
            checkpoint,
            sequences,
            dtype=TORCH_DTYPES[dtype],
            device=self._device,
            first=first,
            samples=samples,
            budget=activation_budget(share, self._device, used=self._idle_memory),
        )

    def close(self) -> None:
        """End a stage, and free the worker's memory."""
        self._worker = None
        give_back()
        free_gpu(self._device)

    def call(self, method: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Call one of SweepWorker's methods."""
        with self._working():
            answer = method(self._worker, *args, **kwargs)
            self._carried_bytes += tensor_bytes((args, kwargs, answer))
            return answer

    def sum_up(
        self,
        give: Callable[..., Gram],
        take: Callable[..., None],
        to: Sequence[int],
        reproducible: bool,
        *args: Any,
        **kwargs: Any,
    ) -> None:
        """Do this actor's part of Crew.sum_up."""
        with self._working(together=True):
            part = give(self._worker, *args, **kwargs)
            total = self._peers.sum_up(part, to=to, reproducible=reproducible)
            if total is not None:
                take(self._worker, total, *args, **kwargs)

    def spread(
        self,
        give: Callable[..., Mapping[str, Any]],
        take: Callable[..., None],
        to: Sequence[int],
        *args: Any,
        **kwargs: Any,
    ) -> None:
        """Do this actor's part of Crew.spread."""
        with self._working(together=True):
            others = self._peers.spread(give(self._worker, *args, **kwargs), to=to)
            if self._peers.rank in to:
                take(self._worker, others)

    def use(self) -> CrewUse:
        """The resources that this process has used since the stage began."""
        assert self._worker is not None, "a stage has been opened"
        runs = self._worker.runs
        return CrewUse(
            peak_memory_bytes(),
            self._idle_memory,
            self._worker.spilled(),
            runs["whole"],
            runs["cut"],
            self._worker.device_name,
            self._worker.gpu_peak(),
            self._carried_bytes,
            self._peers.sent_bytes,
        )

    @contextmanager
    def _working(self, *, together: bool = False) -> Iterator[None]:
        """Notes a failure. After one, this actor takes no part in what all do together, because it may hold
        something else than its peers expect; the failure is raised again."""
        if together and self._failure is not None:
            raise self._failure
        try:
            yield
        except BaseException as error:
            self._failure = self._failure or error
            raise
        finally:
            give_back()


class RayCrew(Crew):
    """The actors of a gang while they work for one stage. Answers are object references until the loop
    fetches them. `title` names the stage in the Ray dashboard. `nodes`: the ids of the nodes with the
    actors."""

    def __init__(
        self, actors: Sequence[ActorHandle[SweepActor]], *, title: str, nodes: Collection[str] = ()
    ) -> None:
        self._actors: tuple[Any, ...] = tuple(actors)  # Ray's types know no options of methods
        self._title = title
        self._nodes = frozenset(nodes)
        self._told = []
        self.reproducible = True
        self.size = len(actors)
        self.label = ""
        [self.blocks, *_] = self.all(SweepWorker.start)

    def ask(
        self,
        worker: int,
        method: Callable[Concatenate[SweepWorker, P], Answer],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> Pending[Answer]:
        """Call a method of one actor's worker."""
        call = self._actors[worker].call.options(name=self._name(method))
        return Pending(call.remote(method, *args, **kwargs))

    def sum_up(
        self,
        give: Callable[Concatenate[SweepWorker, P], Gram],
        take: Callable[Concatenate[SweepWorker, Tensor, P], None],
        to: Sequence[int],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> None:
        """Have the actors add up in their process group."""
        for actor in self._actors:
            call = actor.sum_up.options(name=self._name(give))
            self.hear(Pending(call.remote(give, take, to, self.reproducible, *args, **kwargs)))

    def spread(
        self,
        give: Callable[Concatenate[SweepWorker, P], Mapping[str, Parcel]],
        take: Callable[[SweepWorker, Sequence[Mapping[str, Parcel]]], None],
        to: Sequence[int],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> None:
        """Have the actors send in their process group."""
        for actor in self._actors:
            call = actor.spread.options(name=self._name(give))
            self.hear(Pending(call.remote(give, take, to, *args, **kwargs)))

    def answers(self, pending: Sequence[Pending[Answer]]) -> list[Answer]:
        """Fetch the answers. If one actor fails, all end: the others may wait for it, and whoever waits for
        them must not wait for ever."""
        try:
            return fetched(_references(pending), beside=_references([*self._told]))
        except BaseException:
            for actor in self._actors if self.size > 1 else ():
                ray.kill(actor)
            raise

    def leaving(self) -> bool:
        """Tells whether one of the nodes is about to be taken away."""
        return not self._nodes.isdisjoint(leaving_nodes())

    def use(self) -> CrewUse:
        """The resources that all actors have used."""
        return together(ray.get([actor.use.remote() for actor in self._actors]))

    def _name(self, method: Callable[..., Any]) -> str:
        return " ".join(filter(None, (self._title, method.__name__, self.label)))


def _references(pending: Sequence[Pending[Answer]]) -> list["ray.ObjectRef[Answer]"]:
    return [cast("ray.ObjectRef[Answer]", one.held) for one in pending]
