"""The gang of an attempt: as many sweep actors as the job's resources say, reserved together or not at all.

Stages that walk the blocks take turns on one gang, so that a job never holds more than it declared, and a
turn does not wait for processes to start. Between turns the gang stays, unless someone asks for its places.
"""

import itertools
import threading
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import ray
import torch
from ray.actor import ActorHandle
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy
from torch import Tensor

from pipeline.artifacts import ArtifactRef, CheckpointRef
from pipeline.errors import ResourcesUnavailable
from pipeline.ledger import WorkOrder
from pipeline.methods.base import Needs
from pipeline.model import Dtype
from pipeline.tensor.activations import Room
from pipeline.tensor.statistics import InputShare, LinearStatistics, merge, share_edges
from pipeline.tensor.sweep import SweepWorker
from workers.memory import give_back, peak_memory_bytes, reset_peak_memory
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
class ActorUse:
    """Resident memory of one actor: at the stage's peak, and new, with torch and transformers imported.
    `spilled_bytes`: activations that were on its local disk. `forwards`: how often a sample went through a
    block, and through one up to its last measured input (`cut_forwards`), fitting left out."""

    peak_bytes: int
    idle_bytes: int
    spilled_bytes: int
    forwards: int
    cut_forwards: int

    def made(self, artifacts: Mapping[str, ArtifactRef], **details: float) -> Made:
        """What the stage made, with this beside it."""
        return Made(
            artifacts,
            peak_memory_bytes=self.peak_bytes,
            details={
                "idle_memory_bytes": float(self.idle_bytes),
                "spilled_bytes": float(self.spilled_bytes),
                "forwards": float(self.forwards),
                "cut_forwards": float(self.cut_forwards),
                **details,
            },
        )


@ray.remote
class SweepActor:
    """A SweepWorker in a process of its own, with as many threads as it has CPUs."""

    def __init__(self, *, threads: int, cuda: bool) -> None:
        torch.set_num_threads(threads)
        torch.set_grad_enabled(False)
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
        memory: int,
    ) -> None:
        """Begin a stage: a new worker on a checkpoint with its share of the sequences. Of the `memory` that
        was declared, activations take up to half of what an idle process leaves; the others go to the local
        disk.
        """
        self.close()
        reset_peak_memory()
        room = None
        if self._device.type == "cpu":
            room = Room(left=max(memory - self._idle_memory, 0) // 2)
        self._worker = SweepWorker(
            settings.content(),
            checkpoint,
            sequences,
            dtype=TORCH_DTYPES[dtype],
            device=self._device,
            first=first,
            samples=samples,
            room=room,
        )

    def close(self) -> None:
        """End a stage: give the worker's memory back."""
        self._worker = None
        give_back()

    def call(self, method: str, *args: Any, **kwargs: Any) -> Any:
        """One of SweepWorker's methods. Object references among `args` arrive as their values."""
        try:
            return getattr(self._worker, method)(*args, **kwargs)
        finally:
            give_back()

    def use(self) -> ActorUse:
        """What this process needed and did since the stage began."""
        assert self._worker is not None, "a stage has been opened"
        runs = self._worker.runs
        return ActorUse(
            peak_memory_bytes(), self._idle_memory, self._worker.spilled(), runs["whole"], runs["cut"]
        )


class Gang:
    """Actors with the places reserved for them. Each holds a contiguous share of a stage's sequences."""

    def __init__(self, group: PlacementGroup, actors: Sequence[ActorHandle]) -> None:
        self._group = group
        self._title = ""
        self.actors = tuple(actors)

    def open(self, context: StageContext, sequences: Sequence[Tensor], dtype: Dtype) -> None:
        """Begin a stage on all actors."""
        self._title = context.node
        edges = share_edges(len(sequences), len(self.actors))
        args = context.settings, context.checkpoint()
        resources = context.order.request.resources
        ray.get(
            [
                actor.open.remote(
                    *args, share, dtype, first=first, samples=len(sequences), memory=resources.memory_bytes
                )
                for actor, share, first in zip(self.actors, self.shared_out(sequences), edges, strict=False)
            ]
        )

    def close(self) -> None:
        """End a stage on all actors."""
        ray.get([actor.close.remote() for actor in self.actors])

    def dismiss(self) -> None:
        """Free the places; this ends the actors too."""
        remove_placement_group(self._group)

    def all(self, method: str, *args: Any, label: str = "", **kwargs: Any) -> list[Any]:
        """Call a method on every actor at once; results in actor order."""
        return ray.get([self.one(i, method, *args, label=label, **kwargs) for i in range(len(self.actors))])

    def one(self, index: int, method: str, *args: Any, label: str = "", **kwargs: Any) -> Any:
        """Call a method on one actor; a reference to its result. `label` shows in the Ray dashboard."""
        name = " ".join(filter(None, (self._title, method, label)))
        return self.actors[index].call.options(name=name).remote(method, *args, **kwargs)

    def statistics(self, *, advance: bool, needs: Needs, label: str) -> list[LinearStatistics]:
        """Run the loaded block on all samples; statistics per group of linears, merged in sample order. Grams
        stay with the actors: see `grams`."""
        shares: list[list[InputShare]] = self.all("measure", advance=advance, needs=needs, label=label)
        return [merge(group) for group in zip(*shares, strict=True)]

    def reached(self, group: int, *, needs: Needs, label: str) -> LinearStatistics:
        """Run the loaded block on all samples to where a group's inputs are known; their statistics."""
        shares: list[InputShare] = self.all("reach", group, needs=needs, label=label)
        return merge(shares)

    def grams(self, group: int, *, label: str) -> list[Any]:
        """References to every actor's part of a group's gram, in sample order."""
        return [self.one(i, "gram", group, label=label) for i in range(len(self.actors))]

    def shared_out(self, items: Sequence[Item]) -> list[list[Item]]:
        """Contiguous shares, one for each actor, as even as grams allow."""
        edges = share_edges(len(items), len(self.actors))
        return [list(items[first:end]) for first, end in itertools.pairwise(edges)]

    def use(self) -> ActorUse:
        """Memory of the actor that needed most; forwards of all."""
        uses: list[ActorUse] = ray.get([actor.use.remote() for actor in self.actors])
        return replace(
            max(uses, key=lambda one: one.peak_bytes),
            forwards=sum(one.forwards for one in uses),
            cut_forwards=sum(one.cut_forwards for one in uses),
        )


class GangKeeper:
    """Keeps the gang of one attempt between turns. Safe to share among stage threads."""

    def __init__(self, order: WorkOrder) -> None:
        self._order = order
        self._turns = threading.Lock()
        self._gang: Gang | None = None
        self._wanted = False

    @contextmanager
    def turn(self) -> Iterator["Turn"]:
        """The gang for the length of a block of code, once it is free. A turn that fails dismisses it."""
        started = time.monotonic()
        with self._turns:
            try:
                yield Turn(self, started)
                if self._gang is not None:
                    self._gang.close()
            except BaseException:
                self._dismiss()
                raise
            if self._wanted:
                self._dismiss()

    @contextmanager
    def alone(self) -> Iterator[None]:
        """The places of the gang, without it, for the length of a block of code."""
        with self._turns:
            self._dismiss()
            yield

    def let_go(self) -> None:
        """Someone needs the places: dismiss the gang now, or at the end of the turn."""
        self._wanted = True
        if self._turns.acquire(blocking=False):
            try:
                self._dismiss()
            finally:
                self._turns.release()

    def gang(self) -> Generator[Note, None, Gang]:
        """The gang, hired if there is none, once its processes have begun. Only within a turn."""
        self._wanted = False
        if self._gang is None:
            group = yield from self._reserve()
            self._gang = Gang(group, self._hire(group))
            ray.get([actor.__ray_ready__.remote() for actor in self._gang.actors])
        return self._gang

    def _reserve(self) -> Generator[Note, None, PlacementGroup]:
        """Raises ResourcesUnavailable when the cluster has not given the places in time."""
        resources = self._order.request.resources
        bundle = {"CPU": resources.cpus_per_worker, "memory": resources.memory_bytes}
        if resources.gpus_per_worker:
            bundle["GPU"] = resources.gpus_per_worker
        name = f"{self._order.job}-{self._order.attempt}"
        group = placement_group([bundle] * resources.workers, strategy="PACK", name=name)
        if group.wait(timeout_seconds=min(PATIENCE_SECONDS, resources.placement_timeout_seconds)):
            return group
        asked = (
            f"{resources.workers} workers with {resources.cpus_per_worker} CPUs, "
            f"{resources.gpus_per_worker:g} GPUs and {resources.memory_per_worker} each"
        )
        yield Note(f"waiting for {asked}; free now: {_readable(ray.available_resources())}")
        if group.wait(timeout_seconds=resources.placement_timeout_seconds):
            return group
        remove_placement_group(group)
        raise ResourcesUnavailable(
            f"the cluster did not give {asked} within {resources.placement_timeout_seconds} s; "
            f"it has {_readable(ray.cluster_resources())} in all; lower workers or what each asks for",
            "resources.workers",
        )

    def _hire(self, group: PlacementGroup) -> list[ActorHandle]:
        resources = self._order.request.resources
        return [
            SweepActor.options(
                name=f"{self._order.job}-{self._order.attempt} worker {i} {group.id.hex()[:8]}",
                num_cpus=resources.cpus_per_worker,
                num_gpus=resources.gpus_per_worker,
                memory=resources.memory_bytes,
                scheduling_strategy=PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=i),
            ).remote(threads=resources.cpus_per_worker, cuda=resources.gpus_per_worker > 0)
            for i in range(group.bundle_count)
        ]

    def _dismiss(self) -> None:
        if self._gang is not None:
            self._gang.dismiss()
            self._gang = None


class Turn:
    """One stage's time with the gang."""

    def __init__(self, keeper: GangKeeper, asked_at: float) -> None:
        self._keeper = keeper
        self._asked_at = asked_at

    def open(
        self, context: StageContext, sequences: Sequence[Tensor], *, dtype: Dtype
    ) -> Generator[Note | Waited, None, tuple[Gang, int]]:
        """The gang with the stage's sequences embedded, and the model's number of blocks."""
        gang = yield from self._keeper.gang()
        yield Waited(time.monotonic() - self._asked_at)
        gang.open(context, sequences, dtype)
        return gang, gang.all("start")[0]


def _readable(resources: dict[str, float]) -> str:
    return (
        f"{resources.get('CPU', 0):g} CPUs, {resources.get('GPU', 0):g} GPUs, "
        f"{resources.get('memory', 0) / 2**30:.1f} GiB memory"
    )
