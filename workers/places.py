"""The place of each kind of stage: its runner, and the processes and memory that it takes."""

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from pipeline.dag.stages import Stage
from pipeline.request.parts import Part
from workers.context import Steps

GIB = 2**30
PARTS: dict[str, Part] = {
    "gang": "pruning",
    "training": "recovery",
    "worker": "evaluation",
    "asker": "evaluation",
}


@dataclass(frozen=True)
class Place:
    """The place of a stage on a Ray cluster.

    `where`: `task` is one Ray task of this size. With `gang` the runner stays in the driver and takes a turn
    on the gang; `training` has the gang's places to itself. `worker` is one Ray task with the job's resources
    of a worker, in the place of one. `asker` is a call of an actor of that size, which keeps the checkpoint
    that it has loaded for the next stage. `driver` is for stages too small to be worth a process. `module`,
    below `workers.stages`, holds the runner. Only the process that runs it imports it, because some runners
    import libraries for seconds that the others do without.
    """

    module: str
    where: Literal["task", "gang", "training", "worker", "asker", "driver"] = "task"
    cpus: float = 1
    memory: int = GIB

    @property
    def part(self) -> Part | None:
        """The part of the job's resources that the stage takes its workers from; None for stages whose size
        is fixed."""
        return PARTS.get(self.where)

    @property
    def run(self) -> Callable[..., Steps]:
        """The function that runs the stage."""
        runner: Callable[..., Steps] = importlib.import_module(f"workers.stages.{self.module}").run
        return runner


PLACES: dict[str, Place] = {
    "import_model": Place("import_model"),
    "calibrate": Place("calibrate"),
    "calibrate_self": Place("calibrate_self", where="worker"),
    "measure_statistics": Place("measure_statistics", where="gang"),
    "count_tokens": Place("count_tokens"),
    "cut_vocabulary": Place("cut_vocabulary", memory=2 * GIB),
    "slice": Place("slice_model", memory=2 * GIB),
    "measure_blocks": Place("measure_blocks", where="gang"),
    "allocate": Place("allocate", where="driver"),
    "hold_out": Place("hold_out"),
    "judge": Place("score_held_out", where="gang"),
    "choose_plan": Place("choose_plan", where="driver"),
    "prune": Place("prune", where="gang"),
    "import_keep": Place("import_keep", memory=2 * GIB),
    "compare_masks": Place("compare_masks", memory=2 * GIB),
    "prepare_text": Place("prepare_text", memory=2 * GIB),
    "recover": Place("recover", where="training"),
    "learn_masks": Place("recover", where="training"),
    "evaluate": Place("evaluate", where="gang"),
    "check_tasks": Place("check_tasks", memory=2 * GIB),
    "evaluate_task": Place("evaluate_task", where="asker"),
    "behave": Place("behave", where="worker"),
    "round": Place("round_blocks", where="gang"),
    "quantize": Place("quantize", where="worker"),
    "export_target": Place("export_target", where="worker"),
    "publish": Place("publish", memory=2 * GIB),
    "verify": Place("verify", where="worker"),
    "open_target": Place("open_target", where="worker"),
    "measure_serving": Place("measure_serving", where="worker"),
    "report": Place("report", cpus=0),
    "report_sweep": Place("report_sweep", cpus=0),
}


def on_gang(stage: Stage) -> bool:
    """Tells whether a stage takes a turn on the gang, or on its places."""
    return PLACES[stage.kind].where in ("gang", "training")


def on_worker(stage: Stage) -> bool:
    """Tells whether a stage takes the place of one worker."""
    return PLACES[stage.kind].where in ("worker", "asker")


def places_needed(stage: Stage) -> bool:
    """Tells whether a stage is a task that needs a CPU beside those of the gang."""
    place = PLACES[stage.kind]
    return place.where == "task" and place.cpus > 0
