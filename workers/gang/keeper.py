"""The keeper of an attempt's gang. The places of its actors are reserved all together or not at all.

Stages that walk the blocks take turns on one gang, so that a job never holds more than it declared, and a
turn does not wait for processes to start. Between turns the gang stays, unless other stages need its places.
"""

import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, ParamSpec, TypeVar

import ray
from ray.actor import ActorHandle
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy
from torch import Tensor

from pipeline.errors import ResourcesUnavailable
from pipeline.job.ledger import WorkOrder
from pipeline.spec.model import Dtype
from workers.context import Note, StageContext, Waited
from workers.gang.crew import RayCrew, SweepActor
from workers.gang.gang import Gang

P = ParamSpec("P")
Answer = TypeVar("Answer")
PATIENCE_SECONDS = 5  # before a note says that the attempt waits


class GangKeeper:
    """Keeps the gang of one attempt between turns. Stage threads may share it."""

    def __init__(self, order: WorkOrder) -> None:
        self._order = order
        self._turns = threading.Lock()
        self._gang: Gang | None = None
        self._wanted = False
        self._common: dict[str, Any] = {}
        self._asking = threading.Lock()

    @contextmanager
    def turn(self) -> Iterator["GangTurn"]:
        """Give the gang to a block of code once it is free. A turn that fails dismisses the gang."""
        started = time.monotonic()
        with self._turns:
            try:
                yield GangTurn(self, started)
                if self._gang is not None:
                    self._gang.close()
            except BaseException:
                self._dismiss()
                raise
            if self._wanted:
                self._dismiss()

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Dismiss the gang and keep its places free while a block of code runs."""
        with self._turns:
            self._dismiss()
            yield

    def once(self, name: str, work: Callable[P, Answer], *args: P.args, **kwargs: P.kwargs) -> Answer:
        """The result of a function that several stages of the attempt need. The first stage that asks starts
        it as a Ray task. If it failed, the next stage that asks starts it again."""
        with self._asking:
            if name not in self._common:
                task = ray.remote(max_retries=0)(work).options(name=name, num_cpus=0)
                self._common[name] = task.remote(*args, **kwargs)
            common = self._common[name]
        try:
            found: Answer = ray.get(common)
        except Exception:
            with self._asking:
                if self._common.get(name) is common:
                    del self._common[name]
            raise
        return found

    def let_go(self) -> None:
        """Free the gang's places for another stage: dismiss the gang now, or at the end of the turn."""
        self._wanted = True
        if self._turns.acquire(blocking=False):
            try:
                self._dismiss()
            finally:
                self._turns.release()

    def gang(self) -> Generator[Note, None, Gang]:
        """The gang, once its processes have started; it is hired if there is none. Call it only within a
        turn."""
        self._wanted = False
        if self._gang is None:
            group = yield from self._reserve()
            whole_gpus = self._order.request.resources.gpus_per_worker >= 1
            self._gang = Gang(group, self._hire(group), whole_gpus=whole_gpus)
            self._gang.ready()
        return self._gang

    def _reserve(self) -> Generator[Note, None, PlacementGroup]:
        """Reserve the places. Raises ResourcesUnavailable when the cluster does not give them in time."""
        resources = self._order.request.resources
        bundle: dict[str, float] = {"CPU": resources.cpus_per_worker, "memory": resources.memory_bytes}
        if resources.gpus_per_worker:
            bundle["GPU"] = resources.gpus_per_worker
        name = f"{self._order.job}-{self._order.attempt}"
        group: PlacementGroup = placement_group([bundle] * resources.workers, strategy="PACK", name=name)
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

    def _hire(self, group: PlacementGroup) -> list[ActorHandle[SweepActor]]:
        resources = self._order.request.resources
        hired: Any = SweepActor  # Ray's types say that its decorator returns the plain class
        return [
            hired.options(
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


class GangTurn:
    """The turn of one stage on the gang."""

    def __init__(self, keeper: GangKeeper, asked_at: float) -> None:
        self._keeper = keeper
        self._asked_at = asked_at

    def open(
        self, context: StageContext, sequences: Sequence[Tensor], *, dtype: Dtype
    ) -> Generator[Note | Waited, None, RayCrew]:
        """The gang as a crew, with the stage's sequences embedded."""
        gang = yield from self._keeper.gang()
        yield Waited(time.monotonic() - self._asked_at)
        return gang.open(context, sequences, dtype)


def _readable(resources: dict[str, float]) -> str:
    return (
        f"{resources.get('CPU', 0):g} CPUs, {resources.get('GPU', 0):g} GPUs, "
        f"{resources.get('memory', 0) / 2**30:.1f} GiB memory"
    )
