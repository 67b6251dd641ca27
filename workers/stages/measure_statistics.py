"""Dense sweep: statistics of every linear's input."""

import itertools

import ray

from pipeline.artifacts import FileRef, StatisticsRef
from pipeline.methods.base import Needs
from pipeline.stages import MeasureStatistics
from workers.gang import Gang, GangKeeper
from workers.samples import load_samples
from workers.stages.base import Progress, StageContext, Steps


def run(stage: MeasureStatistics, context: StageContext, keeper: GangKeeper) -> Steps:
    """One forward a block gives its statistics and the inputs of the next; the last one ends before its
    output is made."""
    samples = load_samples(context)
    with keeper.turn() as turn:
        workers, blocks = yield from turn.open(context, samples, dtype=stage.compute_dtype)
        files: list[FileRef] = []
        for block in range(blocks):
            label = f"block {block + 1}/{blocks}"
            workers.all("load", block, label=label)
            files += _measured(workers, frozenset(stage.needs), last=block == blocks - 1, label=label)
            yield Progress(block + 1, blocks)
        memory = workers.memory()
    yield memory.made({"statistics": StatisticsRef(files=tuple(files))})


def _measured(workers: Gang, needs: Needs, *, last: bool, label: str) -> list[FileRef]:
    statistics = workers.statistics(advance=not last, needs=needs, label=label)
    stored = [workers.one(0, "store_statistics", statistics, label=label)]
    if "hessian" in needs:
        turns = itertools.cycle(range(len(workers.actors)))
        stored += [
            workers.one(
                next(turns), "store_hessian", g, one.samples, *workers.grams(g, label=label), label=label
            )
            for g, one in enumerate(statistics)
        ]
    files: list[FileRef] = ray.get(stored)
    return files
