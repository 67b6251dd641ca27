"""A gang of sweep actors, reserved together or not at all: two stages never wait for each other's half."""

import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import ray
import torch
from ray.actor import ActorHandle
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy
from torch import Tensor

from pipeline.artifacts import ArtifactRef, CheckpointRef
from pipeline.errors import ResourcesUnavailable
from pipeline.spec import Dtype
from pipeline.tensor.statistics import LinearStatistics, merge
from pipeline.tensor.sweep import SquaredNorms, SweepWorker
from workers.memory import peak_memory_bytes, reset_peak_memory
from workers.settings import WorkerSettings
from workers.stages.base import Made, Note, StageContext, Waited

Item = TypeVar("Item")
PATIENCE_SECONDS = 5  # before we say that we are waiting

TORCH_DTYPES: dict[Dtype, torch.dtype] = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}


@dataclass(frozen=True)
class ActorMemory:
    """Resident memory of one actor: at its peak, and before any work with torch and transformers imported."""

    peak_bytes: int
    idle_bytes: int

    def made(self, artifacts: Mapping[str, ArtifactRef], **details: float) -> Made:
        """What the stage made, with this memory beside it."""
        return Made(
            artifacts,
            peak_memory_bytes=self.peak_bytes,
            details={"idle_memory_bytes": float(self.idle_bytes), **details},
        )


@ray.remote
class SweepActor:
    """A SweepWorker in a process of its own, with as many threads as it has CPUs."""

    def __init__(
        self,
        settings: WorkerSettings,
        checkpoint: CheckpointRef,
        sequences: Sequence[Tensor],
        *,
        dtype: Dtype,
        threads: int,
        cuda: bool,
    ) -> None:
        torch.set_num_threads(threads)
        torch.set_grad_enabled(False)
        reset_peak_memory()
        self._idle_memory = peak_memory_bytes()
        self._worker = SweepWorker(
            settings.content(),
            checkpoint,
            sequences,
            dtype=TORCH_DTYPES[dtype],
            device=torch.device("cuda" if cuda else "cpu"),
        )

    def call(self, method: str, *args: Any, **kwargs: Any) -> Any:
        """One of SweepWorker's methods. Object references among `args` arrive as their values."""
        return getattr(self._worker, method)(*args, **kwargs)

    def memory(self) -> ActorMemory:
        """What this process needed so far."""
        return ActorMemory(peak_bytes=peak_memory_bytes(), idle_bytes=self._idle_memory)


class Gang:
    """The actors of one stage. Each holds a contiguous share of the sequences; results come back in order."""

    def __init__(self, actors: Sequence[ActorHandle], node: str) -> None:
        self.actors = tuple(actors)
        self._node = node

    def all(self, method: str, *args: Any, label: str = "", **kwargs: Any) -> list[Any]:
        """Call a method on every actor at once; results in actor order."""
        return ray.get(self.start(method, *args, label=label, **kwargs))

    def start(self, method: str, *args: Any, label: str = "", **kwargs: Any) -> list[Any]:
        """Like `all`, giving references."""
        return [self.one(i, method, *args, label=label, **kwargs) for i in range(len(self.actors))]

    def one(self, index: int, method: str, *args: Any, label: str = "", **kwargs: Any) -> Any:
        """Call a method on one actor; a reference to its result. `label` shows in the Ray dashboard."""
        name = " ".join(filter(None, (self._node, method, label)))
        return self.actors[index].call.options(name=name).remote(method, *args, **kwargs)

    def statistics(self, *, samples: int, advance: bool, label: str) -> list[LinearStatistics]:
        """Run the loaded block on all samples; statistics per group of linears, merged in sample order."""
        shares: list[list[SquaredNorms]] = self.all("measure", advance=advance, label=label)
        per_sample = [norms for share in shares for norms in share]
        return [merge(group, samples=samples) for group in zip(*per_sample, strict=True)]

    def shared_out(self, items: Sequence[Item]) -> list[list[Item]]:
        """Items that belong to the sequences, dealt as the sequences were."""
        return _shares(items, len(self.actors))

    def memory(self) -> ActorMemory:
        """Of the actor that needed most."""
        return max(ray.get([actor.memory.remote() for actor in self.actors]), key=lambda one: one.peak_bytes)


def reserve(context: StageContext, *, at_most: int) -> Generator[Note | Waited, None, PlacementGroup]:
    """Reserve as many workers as the job's resources ask for, but no more than there is work for.

    Yields a note when the cluster is busy, and how long it took. Raises ResourcesUnavailable when it has not
    given them within resources.placement_timeout_seconds.
    """
    resources = context.order.request.resources
    count = min(resources.workers, max(at_most, 1))
    bundle = {"CPU": resources.cpus_per_worker, "memory": resources.memory_bytes}
    if resources.gpus_per_worker:
        bundle["GPU"] = resources.gpus_per_worker
    started = time.monotonic()
    group = placement_group([bundle] * count, strategy="PACK", name=context.title)
    if group.wait(timeout_seconds=min(PATIENCE_SECONDS, resources.placement_timeout_seconds)):
        yield Waited(time.monotonic() - started)
        return group
    asked = (
        f"{count} workers with {resources.cpus_per_worker} CPUs, {resources.gpus_per_worker:g} GPUs "
        f"and {resources.memory_per_worker} each"
    )
    yield Note(f"waiting for {asked}; free now: {_readable(ray.available_resources())}")
    if group.wait(timeout_seconds=resources.placement_timeout_seconds):
        yield Waited(time.monotonic() - started)
        return group
    remove_placement_group(group)
    raise ResourcesUnavailable(
        f"the cluster did not give {asked} within {resources.placement_timeout_seconds} s; "
        f"it has {_readable(ray.cluster_resources())} in all; lower resources.workers or what each asks for",
        "resources.workers",
    )


@contextmanager
def hired(
    group: PlacementGroup,
    context: StageContext,
    sequences: Sequence[Tensor],
    *,
    dtype: Dtype,
) -> Iterator[Gang]:
    """One actor on each reserved place, with its share of the sequences. Frees the places at the end."""
    resources = context.order.request.resources
    count = group.bundle_count
    try:
        shares = _shares(sequences, count)
        actors = [
            SweepActor.options(
                name=f"{context.title} worker {i} try {context.tries}",
                num_cpus=resources.cpus_per_worker,
                num_gpus=resources.gpus_per_worker,
                memory=resources.memory_bytes,
                scheduling_strategy=PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=i),
            ).remote(
                context.settings,
                context.checkpoint(),
                shares[i],
                dtype=dtype,
                threads=resources.cpus_per_worker,
                cuda=resources.gpus_per_worker > 0,
            )
            for i in range(count)
        ]
        yield Gang(actors, context.node)
    finally:
        remove_placement_group(group)  # ends its actors too


def _readable(resources: dict[str, float]) -> str:
    return (
        f"{resources.get('CPU', 0):g} CPUs, {resources.get('GPU', 0):g} GPUs, "
        f"{resources.get('memory', 0) / 2**30:.1f} GiB memory"
    )


def _shares(items: Sequence[Item], count: int) -> list[list[Item]]:
    """Contiguous shares whose sizes differ by one at most."""
    edges = [i * len(items) // count for i in range(count + 1)]
    return [list(items[edges[i] : edges[i + 1]]) for i in range(count)]
