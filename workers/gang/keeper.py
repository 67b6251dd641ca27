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
from ray.exceptions import RayError
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy
from torch import Tensor

from pipeline.job.ledger import WorkOrder
from pipeline.spec.model import Dtype
from workers.context import Note, StageContext, Waited
from workers.gang.crew import RayCrew, SweepActor
from workers.gang.gang import Gang
from workers.kills import ended_by_kernel, killed_for_memory
from workers.waiting import PATIENCE_SECONDS, check_possible, gave_up, why_waiting

P = ParamSpec("P")
Answer = TypeVar("Answer")


class GangKeeper:
    """Keeps the gang of one attempt between turns. Stage threads may share it."""

    def __init__(self, order: WorkOrder) -> None:
        self._order = order
        self._share = order.request.resources.of("pruning")
        self._turns = threading.Lock()
        self._gang: Gang | None = None
        self._node: str | None = None
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
            except RayError as error:
                memory = self._gang is not None and killed_for_memory(error, self._gang.began)
                self._dismiss()
                if memory:
                    raise ended_by_kernel(self._node, self._share) from error
                raise
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

    def gang(self, node: str) -> Generator[Note, None, Gang]:
        """The gang for a node, once its processes have started; it is hired if there is none. Call it only
        within a turn."""
        self._node = node
        self._wanted = False
        if self._gang is None:
            group = yield from self._reserve()
            whole_gpus = self._share.gpus_per_worker >= 1
            self._gang = Gang(group, self._hire(group), whole_gpus=whole_gpus)
            self._gang.ready()
        return self._gang

    def _reserve(self) -> Generator[Note, None, PlacementGroup]:
        """Reserve the places. Raises ResourcesUnavailable when the cluster does not give them in time, or
        never can."""
        share = self._share
        check_possible(share)
        name = f"{self._order.job}-{self._order.attempt}"
        group: PlacementGroup = placement_group([share.bundle] * share.workers, strategy="PACK", name=name)
        limit = share.placement_timeout_seconds
        if group.wait(timeout_seconds=min(PATIENCE_SECONDS, limit)):
            return group
        yield Note(why_waiting(share))
        if group.wait(timeout_seconds=limit):
            return group
        remove_placement_group(group)
        raise gave_up(share)

    def _hire(self, group: PlacementGroup) -> list[ActorHandle[SweepActor]]:
        share = self._share
        hired: Any = SweepActor  # Ray's types say that its decorator returns the plain class
        return [
            hired.options(
                name=f"{self._order.job}-{self._order.attempt} worker {i} {group.id.hex()[:8]}",
                num_cpus=share.cpus_per_worker,
                num_gpus=share.gpus_per_worker,
                memory=share.memory_bytes,
                scheduling_strategy=PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=i),
            ).remote(threads=share.cpus_per_worker, cuda=share.gpus_per_worker > 0)
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
        gang = yield from self._keeper.gang(context.node)
        yield Waited(time.monotonic() - self._asked_at)
        return gang.open(context, sequences, dtype)
