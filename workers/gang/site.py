"""The site of an attempt on a Ray cluster: stages run as tasks, in actors that ask, as turns on the gang, or
in the driver."""

import time
from collections.abc import Callable, Iterator, Sequence

import ray
from ray.exceptions import RayError

from pipeline.dag.stages import Stage
from pipeline.job.ledger import WorkOrder
from pipeline.request.parts import WorkerShare
from workers.context import Note, StageContext, Step, Steps, Waited
from workers.gang.askers import Askers
from workers.gang.keeper import GangKeeper
from workers.gang.measured import measured
from workers.gang.metrics import RayMetrics
from workers.kills import Began, began_here, ended_by_kernel, killed_for_memory
from workers.places import PLACES
from workers.waiting import PATIENCE_SECONDS, check_possible, gave_up, why_waiting


class RaySite:
    """See Site."""

    threads = None

    def __init__(self, order: WorkOrder) -> None:
        self._keeper = GangKeeper(order)
        self._resources = order.request.resources
        self._askers = Askers(self._resources.of("evaluation"))
        self.workers = self._resources.of("evaluation").workers
        self.metrics = RayMetrics(order.job)

    def prepare(self, stages: Sequence[Stage]) -> None:
        """Import the runners that stay in the driver."""
        for stage in stages:
            place = PLACES[stage.kind]
            if place.where in ("gang", "training", "driver"):
                _ = place.run

    def launch(self, stage: Stage, context: StageContext) -> Steps:
        """Run a stage in its place."""
        place = PLACES[stage.kind]
        if place.where == "driver":
            yield from place.run(stage, context)
            return
        if place.where in ("gang", "training"):
            with self._askers.making_room():
                yield from place.run(stage, context, self._keeper)
            return
        if place.cpus:
            self._keeper.let_go()
        share = None if place.part is None else self._resources.of(place.part)
        if share is not None:
            check_possible(share, workers=1)
        if place.where == "asker":
            with self._askers.one(context.checkpoint().digest) as (actor, begun):
                asked = actor.run.options(name=context.title, num_returns="streaming")
                yield from _followed(asked.remote(stage, context), stage, share, begun)
            return
        with self._askers.making_room() as begun:
            if share is None:
                task = _run_task.options(name=context.title, num_cpus=place.cpus, memory=place.memory)
            else:
                task = (_run_gpu_task if share.gpus_per_worker else _run_task).options(
                    name=context.title,
                    num_cpus=share.cpus_per_worker,
                    num_gpus=share.gpus_per_worker,
                    memory=share.memory_bytes,
                    accelerator_type=share.accelerator_type,
                )
            yield from _followed(task.remote(stage, context), stage, share, begun)


def _followed(
    running: ray.ObjectRefGenerator, stage: Stage, share: WorkerShare | None, begun: Callable[[], None]
) -> Steps:
    """The steps of a stage that runs elsewhere. `begun` is called once it has a place. Raises
    ResourcesUnavailable if it gets none in time, and OutOfMemory if its process was ended for want of memory.
    Only a stage with a share of the job's resources says that it waits, and gives up."""
    asked_at = time.monotonic()
    if share is not None:
        limit = share.placement_timeout_seconds
        if not _begins(running, min(PATIENCE_SECONDS, limit)):
            yield Note(why_waiting(share))
            if not _begins(running, limit):
                ray.cancel(running)
                raise gave_up(share)
    places: list[Began] = []
    try:
        for reference in running:
            step: Began | Step = ray.get(reference)
            if not isinstance(step, Began):
                yield step
                continue
            begun()
            places.append(step)
            if share is not None:
                yield Waited(time.monotonic() - asked_at)
    except RayError as error:
        if killed_for_memory(error, places):
            raise ended_by_kernel(stage.kind, share) from error
        raise


def _begins(running: ray.ObjectRefGenerator, seconds: float) -> bool:
    ready, _ = ray.wait([running], timeout=seconds, fetch_local=False)
    return bool(ready)


def _run(stage: Stage, context: StageContext) -> Iterator[Began | Step]:
    yield began_here()
    yield from measured(PLACES[stage.kind].run(stage, context))


_run_task = ray.remote(num_returns="streaming", max_retries=0)(_run)
# A process that Ray used again would keep the GPU that it was given first, whatever it is given next.
_run_gpu_task = ray.remote(num_returns="streaming", max_retries=0, max_calls=1)(_run)
