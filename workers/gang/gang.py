"""The gang of an attempt: as many sweep actors as the job's resources say, and what stages ask of them."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import ray
import torch
from ray.actor import ActorHandle
from ray.util.placement_group import PlacementGroup, remove_placement_group
from torch import Tensor

from pipeline.artifacts.refs import ArtifactRef, CheckpointRef
from pipeline.blocks.activations import Room
from pipeline.spec.model import Dtype
from pipeline.tensor.needs import Needs
from pipeline.tensor.statistics import InputShare, LinearStatistics, merge, share_edges
from workers.memory import give_back, peak_memory_bytes, reset_peak_memory
from workers.settings import WorkerSettings
from workers.stages.base import Made, StageContext

Item = TypeVar("Item")

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
        from pipeline.blocks.worker import SweepWorker  # it needs transformers' models; the driver does not

        self._new_worker = SweepWorker
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
        self._worker = self._new_worker(
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
        self._told: list[Any] = []
        self.actors = tuple(actors)

    def open(self, context: StageContext, sequences: Sequence[Tensor], dtype: Dtype) -> None:
        """Begin a stage on all actors."""
        self._title, self._told = context.node, []
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
        self.wait([actor.close.remote() for actor in self.actors])

    def dismiss(self) -> None:
        """Free the places; this ends the actors too."""
        remove_placement_group(self._group)

    def all(self, method: str, *args: Any, label: str = "", **kwargs: Any) -> list[Any]:
        """Call a method on every actor at once; results in actor order."""
        return self.wait([self.one(i, method, *args, label=label, **kwargs) for i in range(len(self.actors))])

    def tell(self, method: str, *args: Any, label: str = "", **kwargs: Any) -> None:
        """Call a method on every actor without waiting, so that none is idle meanwhile: each does what it was
        asked in that order. What fails is raised by the next `wait`."""
        for i in range(len(self.actors)):
            self.hear(self.one(i, method, *args, label=label, **kwargs))

    def hear(self, reference: Any) -> None:
        """Raise what comes of a call, if it fails, with the next `wait`."""
        self._told.append(reference)

    def wait(self, references: Sequence[Any]) -> list[Any]:
        """Results of calls. What was told before them went before them, and so do its errors."""
        told, self._told = self._told, []
        results: list[Any] = ray.get([*told, *references])
        return results[len(told) :]

    def one(self, index: int, method: str, *args: Any, label: str = "", **kwargs: Any) -> Any:
        """Call a method on one actor; a reference to its result. `label` shows in the Ray dashboard."""
        name = " ".join(filter(None, (self._title, method, label)))
        return self.actors[index].call.options(name=name).remote(method, *args, **kwargs)

    def statistics(self, *, advance: bool, needs: Needs, label: str) -> list[LinearStatistics]:
        """Run the loaded block on all samples; statistics per group of linears, merged in sample order. Grams
        stay with the actors: see `grams`."""
        shares: list[list[InputShare]] = self.all("measure", advance=advance, needs=needs, label=label)
        return [merge(group) for group in zip(*shares, strict=True)]

    def similarity(self, *, label: str) -> float:
        """Of the block's input and output, by the last `statistics`; over all samples, in their order."""
        shares: list[list[float]] = self.all("similarities", label=label)
        found = [one for share in shares for one in share]
        return sum(found) / len(found)

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
        uses: list[ActorUse] = self.wait([actor.use.remote() for actor in self.actors])
        return replace(
            max(uses, key=lambda one: one.peak_bytes),
            forwards=sum(one.forwards for one in uses),
            cut_forwards=sum(one.cut_forwards for one in uses),
        )
