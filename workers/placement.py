"""Where each kind of stage runs, and with what."""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import ray

from pipeline.stages import Stage
from workers.keeper import GangKeeper
from workers.memory import peak_memory_bytes, reset_peak_memory
from workers.stages import (
    allocate,
    calibrate,
    check_tasks,
    choose_plan,
    compare_masks,
    count_tokens,
    cut_vocabulary,
    evaluate,
    evaluate_task,
    hold_out,
    import_keep,
    import_model,
    judge,
    measure_blocks,
    measure_statistics,
    prepare_text,
    prune,
    publish,
    recover,
    report,
    report_sweep,
    slice_model,
)
from workers.stages.base import Made, StageContext, Steps, Waited

GIB = 2**30


@dataclass(frozen=True)
class Place:
    """`task`: one Ray task of this size does it all. `gang`: the runner stays in the driver and takes a turn
    on the gang, or on its places. `worker`: one Ray task with what the job's resources give a worker, in the
    place of one. `driver`: too small to be worth a process."""

    run: Callable[..., Steps]
    where: Literal["task", "gang", "worker", "driver"] = "task"
    cpus: float = 1
    memory: int = GIB


PLACES: dict[str, Place] = {
    "import_model": Place(import_model.run),
    "calibrate": Place(calibrate.run),
    "measure_statistics": Place(measure_statistics.run, where="gang"),
    "count_tokens": Place(count_tokens.run),
    "cut_vocabulary": Place(cut_vocabulary.run, memory=2 * GIB),
    "slice": Place(slice_model.run, memory=2 * GIB),
    "measure_blocks": Place(measure_blocks.run, where="gang"),
    "allocate": Place(allocate.run, where="driver"),
    "hold_out": Place(hold_out.run),
    "judge": Place(judge.run, where="gang"),
    "choose_plan": Place(choose_plan.run, where="driver"),
    "prune": Place(prune.run, where="gang"),
    "import_keep": Place(import_keep.run, memory=2 * GIB),
    "compare_masks": Place(compare_masks.run, memory=2 * GIB),
    "prepare_text": Place(prepare_text.run, memory=2 * GIB),
    "recover": Place(recover.run, where="gang"),
    "learn_masks": Place(recover.run, where="gang"),
    "evaluate": Place(evaluate.run, where="gang"),
    "check_tasks": Place(check_tasks.run, memory=2 * GIB),
    "evaluate_task": Place(evaluate_task.run, where="worker"),
    "publish": Place(publish.run, memory=2 * GIB),
    "report": Place(report.run, cpus=0),
    "report_sweep": Place(report_sweep.run, cpus=0),
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


def launch(stage: Stage, context: StageContext, keeper: GangKeeper) -> Steps:
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
