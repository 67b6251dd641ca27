"""The site of an attempt on a Ray cluster: stages run as tasks, as turns on the gang, or in the driver."""

import time
from collections.abc import Sequence
from dataclasses import replace

import ray

from pipeline.dag.stages import Stage
from pipeline.job.ledger import WorkOrder
from workers.context import Made, StageContext, Step, Steps, Waited
from workers.gang.keeper import GangKeeper
from workers.gang.metrics import RayMetrics
from workers.memory import give_back, peak_memory_bytes, reset_peak_memory
from workers.places import PLACES


class RaySite:
    """See Site."""

    threads = None

    def __init__(self, order: WorkOrder) -> None:
        self._keeper = GangKeeper(order)
        self._resources = order.request.resources
        self.workers = self._resources.workers
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
        if place.where in ("gang", "training"):
            yield from place.run(stage, context, self._keeper)
            return
        if place.where == "driver":
            yield from place.run(stage, context)
            return
        if place.where == "worker":
            size = {
                "num_cpus": self._resources.cpus_per_worker,
                "num_gpus": self._resources.gpus_per_worker,
                "memory": self._resources.memory_bytes,
            }
        else:
            size = {"num_cpus": place.cpus, "memory": place.memory}
        if size["num_cpus"]:
            self._keeper.let_go()
        asked_at = time.monotonic()
        waiting = place.where == "worker"
        running: ray.ObjectRefGenerator = _run_task.options(name=context.title, max_retries=0, **size).remote(
            stage, context
        )
        for reference in running:
            done: Step = ray.get(reference)
            if waiting:  # the first step arrives once Ray has found resources for the task
                yield Waited(time.monotonic() - asked_at)
                waiting = False
            yield done


@ray.remote(num_returns="streaming")
def _run_task(stage: Stage, context: StageContext) -> Steps:
    reset_peak_memory()
    for step in PLACES[stage.kind].run(stage, context):
        if isinstance(step, Made) and step.peak_memory_bytes is None:
            step = replace(step, peak_memory_bytes=peak_memory_bytes())
        yield step
    give_back()  # the next stage may run in this process
