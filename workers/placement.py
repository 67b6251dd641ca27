"""Where each kind of stage runs, and with what."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import ray

from pipeline.stages import Stage
from workers.memory import peak_memory_bytes, reset_peak_memory
from workers.stages import (
    allocate,
    calibrate,
    evaluate,
    import_model,
    measure_outliers,
    prune,
    publish,
    report,
)
from workers.stages.base import Made, StageContext, Steps

GIB = 2**30


@dataclass(frozen=True)
class Place:
    """`gang`: the runner stays in the driver and hires actors; else one task of this size does it all."""

    run: Callable[[Any, StageContext], Steps]
    gang: bool = False
    cpus: float = 1
    memory: int = GIB


PLACES: dict[str, Place] = {
    "import_model": Place(import_model.run),
    "calibrate": Place(calibrate.run),
    "measure_outliers": Place(measure_outliers.run, gang=True),
    "allocate": Place(allocate.run, cpus=0.1),
    "prune": Place(prune.run, gang=True),
    "evaluate": Place(evaluate.run, gang=True),
    "publish": Place(publish.run),
    "report": Place(report.run, cpus=0.1),
}


def launch(stage: Stage, context: StageContext) -> Steps:
    """Run a stage where it belongs, passing on what it yields."""
    place = PLACES[stage.kind]
    if place.gang:
        yield from place.run(stage, context)
        return
    options = {"name": context.title, "num_cpus": place.cpus, "memory": place.memory, "max_retries": 0}
    for step in _run_task.options(**options).remote(stage, context):
        yield ray.get(step)


@ray.remote(num_returns="streaming")
def _run_task(stage: Stage, context: StageContext) -> Steps:
    reset_peak_memory()
    for step in PLACES[stage.kind].run(stage, context):
        if isinstance(step, Made) and step.peak_memory_bytes is None:
            step = replace(step, peak_memory_bytes=peak_memory_bytes())
        yield step
