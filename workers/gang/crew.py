"""A crew of Ray actors: each holds a SweepWorker in a process of its own."""

from collections.abc import Callable, Sequence
from typing import Any, Concatenate, ParamSpec, TypeVar, cast

import ray
import torch
from ray.actor import ActorHandle
from torch import Tensor

from pipeline.artifacts.refs import CheckpointRef
from pipeline.blocks.crew import Crew, CrewUse, Pending, together
from pipeline.blocks.worker import SweepWorker
from pipeline.request.resources import Resources
from pipeline.spec.model import Dtype
from pipeline.tensor.devices import exact_products, free_gpu
from pipeline.tensor.dtypes import TORCH_DTYPES
from workers.budget import activation_budget
from workers.memory import give_back, peak_memory_bytes, reset_peak_memory
from workers.settings import WorkerSettings

P = ParamSpec("P")
Answer = TypeVar("Answer")
Part = TypeVar("Part")


@ray.remote
class SweepActor:
    """A SweepWorker in a process of its own, with as many threads as it has CPUs."""

    def __init__(self, *, threads: int, cuda: bool) -> None:
        torch.set_num_threads(threads)
        torch.set_grad_enabled(False)
        exact_products()
        self._device = torch.device("cuda" if cuda else "cpu")
        self._worker: SweepWorker | None = None
        reset_peak_memory()
        self._idle_memory = peak_memory_bytes()

    def open(
        self,
        settings: WorkerSettings,
        checkpoint: CheckpointRef,
        sequences: Sequence[Tensor],
        dtype: Dtype,
        *,
        first: int,
        samples: int,
        resources: Resources,
    ) -> None:
        """Begin a stage with a new worker on a checkpoint, which gets its share of the sequences. `resources`
        limit its activations: see activation_budget.
        """
        self.close()
        reset_peak_memory()
        self._worker = SweepWorker(
            settings.content(),
            checkpoint,
            sequences,
            dtype=TORCH_DTYPES[dtype],
            device=self._device,
            first=first,
            samples=samples,
            budget=activation_budget(resources, self._device, used=self._idle_memory),
        )

    def close(self) -> None:
        """End a stage, and free the worker's memory."""
        self._worker = None
        give_back()
        free_gpu(self._device)

    def call(self, method: Callable[..., Any], parts: int | None, *args: Any, **kwargs: Any) -> Any:
        """Call one of SweepWorker's methods. Ray replaces object references among `args` by their values. The
        first `parts` of them become one list, the method's first argument."""
        given = args if parts is None else (list(args[:parts]), *args[parts:])
        try:
            return method(self._worker, *given, **kwargs)
        finally:
            give_back()

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
        )


class RayCrew(Crew):
    """The actors of a gang while they work for one stage. Answers are object references until the loop
    fetches them. `title` names the stage in the Ray dashboard."""

    def __init__(self, actors: Sequence[ActorHandle[SweepActor]], *, title: str) -> None:
        self._actors = tuple(actors)
        self._title = title
        self._told = []
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
        return Pending(self._called(worker, method).remote(method, None, *args, **kwargs))

    def ask_with(
        self,
        worker: int,
        method: Callable[Concatenate[SweepWorker, Sequence[Part], P], Answer],
        parts: Sequence[Pending[Part]],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> Pending[Answer]:
        """Call a method of one actor's worker with earlier answers, which go from actor to actor."""
        held = [part.held for part in parts]
        return Pending(self._called(worker, method).remote(method, len(held), *held, *args, **kwargs))

    def answers(self, pending: Sequence[Pending[Answer]]) -> list[Answer]:
        """Fetch the answers."""
        references = [cast("ray.ObjectRef[Answer]", one.held) for one in pending]
        found: list[Answer] = ray.get(references)
        return found

    def use(self) -> CrewUse:
        """The resources that all actors have used."""
        return together(ray.get([actor.use.remote() for actor in self._actors]))

    def _called(self, worker: int, method: Callable[..., Any]) -> Any:
        name = " ".join(filter(None, (self._title, method.__name__, self.label)))
        return self._actors[worker].call.options(name=name)
