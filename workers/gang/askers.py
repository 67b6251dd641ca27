"""Actors that keep a loaded checkpoint from one eval task to the next."""

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any

import ray
from ray.actor import ActorHandle

from pipeline.dag.stages import Stage
from pipeline.request.parts import WorkerShare
from workers.context import StageContext, Step
from workers.gang.measured import measured
from workers.harness.asker import Asker
from workers.kills import Began, began_here
from workers.places import PLACES


@ray.remote
class AskingActor:
    """One process that asks tasks, one after the other."""

    def __init__(self) -> None:
        self._asker = Asker()

    def run(self, stage: Stage, context: StageContext) -> Iterator[Began | Step]:
        """Run a stage, and yield where this process is, then the stage's steps."""
        yield began_here()
        yield from measured(PLACES[stage.kind].run(stage, context, self._asker))


class Askers:
    """The actors of an attempt that ask tasks. Stage threads share them. An idle one never holds a place that
    another stage waits for."""

    def __init__(self, share: WorkerShare) -> None:
        self._share = share
        self._idle: list[tuple[str, ActorHandle[AskingActor]]] = []
        self._wanted = 0  # stages that wait for a place
        self._changing = threading.Lock()

    @contextmanager
    def one(self, checkpoint: str) -> Iterator[tuple[Any, Callable[[], None]]]:
        """An actor for the length of a `with` block: one that has loaded the checkpoint with this digest if
        it is free, else another free one, else a new one. The function that comes with it is called once the
        actor has a place. An actor whose stage fails is ended."""
        actor = self._free(checkpoint)
        with nullcontext(_nothing) if actor is not None else self.making_room() as begun:
            actor = actor or self._hired()
            try:
                yield actor, begun
            except BaseException:
                ray.kill(actor)
                raise
        with self._changing:
            if self._wanted:
                ray.kill(actor)
            else:
                self._idle.append((checkpoint, actor))

    @contextmanager
    def making_room(self) -> Iterator[Callable[[], None]]:
        """End idle actors, also those that become idle until the given function is called, or the `with`
        block ends."""
        with self._changing:
            self._wanted += 1
            for _, actor in self._idle:
                ray.kill(actor)
            self._idle.clear()
        served = ExitStack()
        with served:
            served.callback(self._served)
            yield served.close

    def _served(self) -> None:
        with self._changing:
            self._wanted -= 1

    def _free(self, checkpoint: str) -> ActorHandle[AskingActor] | None:
        with self._changing:
            if not self._idle:
                return None
            having = [i for i, (loaded, _) in enumerate(self._idle) if loaded == checkpoint]
            _, actor = self._idle.pop(having[0] if having else 0)
            return actor

    def _hired(self) -> ActorHandle[AskingActor]:
        share = self._share
        hired: Any = AskingActor  # Ray's types say that its decorator returns the plain class
        actor: ActorHandle[AskingActor] = hired.options(
            num_cpus=share.cpus_per_worker,
            num_gpus=share.gpus_per_worker,
            memory=share.memory_bytes,
            accelerator_type=share.accelerator_type,
        ).remote()
        return actor


def _nothing() -> None:
    """An actor that has worked before has its place."""
