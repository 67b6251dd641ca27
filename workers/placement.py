"""Where each kind of stage runs, and with what."""

import importlib
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import ray

from pipeline.dag.stages import Stage
from workers.memory import peak_memory_bytes, reset_peak_memory
from workers.stages.base import Made, StageContext, Steps, Waited

if TYPE_CHECKING:
    from workers.gang.keeper import GangKeeper

GIB = 2**30


@dataclass(frozen=True)
class Place:
    """`task`: one Ray task of this size does it all. `gang`: the runner stays in the driver and takes a turn
    on the gang, or on its places. `worker`: one Ray task with what the job's resources give a worker, in the
    place of one. `driver`: too small to be worth a process. `module`: of the runner, below `workers.stages`;
    imported by who runs it, as some need seconds for what the others do without."""

    module: str
    where: Literal["task", "gang", "worker", "driver"] = "task"
    cpus: float = 1
    memory: int = GIB

    @property
    def run(self) -> Callable[..., Steps]:
        """The runner."""
        runner: Callable[..., Steps] = importlib.import_module(f"workers.stages.{self.module}").run
        return runner


PLACES: dict[str, Place] = {
    "import_model": Place("import_model"),
    "calibrate": Place("calibrate"),
    "measure_statistics": Place("measure_statistics", where="gang"),
    "count_tokens": Place("count_tokens"),
    "cut_vocabulary": Place("cut_vocabulary", memory=2 * GIB),
    "slice": Place("slice_model", memory=2 * GIB),
    "measure_blocks": Place("measure_blocks", where="gang"),
    "allocate": Place("allocate", where="driver"),
    "hold_out": Place("hold_out"),
    "judge": Place("judge", where="gang"),
    "choose_plan": Place("choose_plan", where="driver"),
    "prune": Place("prune", where="gang"),
    "import_keep": Place("import_keep", memory=2 * GIB),
    "compare_masks": Place("compare_masks", memory=2 * GIB),
    "prepare_text": Place("prepare_text", memory=2 * GIB),
    "recover": Place("recover", where="gang"),
    "learn_masks": Place("recover", where="gang"),
    "evaluate": Place("evaluate", where="gang"),
    "check_tasks": Place("check_tasks", memory=2 * GIB),
    "evaluate_task": Place("evaluate_task", where="worker"),
    "publish": Place("publish", memory=2 * GIB),
    "report": Place("report", cpus=0),
    "report_sweep": Place("report_sweep", cpus=0),
}


def on_gang(stage: Stage) -> bool:
    """Whether a stage takes a turn on the gang."""
    return PLACES[stage.kind].where == "gang"


def on_worker(stage: Stage) -> bool:
    """Whether a stage takes the place of one worker."""
    return PLACES[stage.kind].where == "worker"


def places_needed(stage: Stage) -> bool:
    """Whether a stage is a task that needs a CPU beside the gang's."""
    place = PLACES[stage.kind]
    return place.where == "task" and place.cpus > 0


def prepare(stage: Stage) -> None:
    """Import what the driver itself needs for a stage. Before there are threads: two that import parts of one
    library at once may see them half made."""
    if PLACES[stage.kind].where in ("gang", "driver"):
        _ = PLACES[stage.kind].run


def launch(stage: Stage, context: StageContext, keeper: "GangKeeper") -> Steps:
    """Run a stage where it belongs, passing on what it yields."""
    place = PLACES[stage.kind]
    if place.where == "gang":
        yield from place.run(stage, context, keeper)
        return
    if place.where == "driver":
        yield from place.run(stage, context)
        return
    resources = context.order.request.resources
    if place.where == "worker":
        size = {
            "num_cpus": resources.cpus_per_worker,
            "num_gpus": resources.gpus_per_worker,
            "memory": resources.memory_bytes,
        }
    else:
        size = {"num_cpus": place.cpus, "memory": place.memory}
    if size["num_cpus"]:
        keeper.let_go()
    asked_at = time.monotonic()
    waiting = place.where == "worker"
    for step in _run_task.options(name=context.title, max_retries=0, **size).remote(stage, context):
        done = ray.get(step)
        if waiting:  # the first word comes when there is room
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
