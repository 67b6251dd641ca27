"""A number per block, or per linear, for the allocation."""

import math

import ray

from pipeline.allocations.measures import Measurements
from pipeline.artifacts.refs import MeasurementsRef, StatisticsRef
from pipeline.dag.stages.pruning import MeasureBlocks
from workers.gang.keeper import GangKeeper
from workers.stages.base import Progress, StageContext, Steps


def run(stage: MeasureBlocks, context: StageContext, keeper: GangKeeper) -> Steps:
    """From weights and stored statistics: no block is run, and each worker measures blocks of its own."""
    statistics = context.inputs.get("statistics")
    assert statistics is None or isinstance(statistics, StatisticsRef)
    with keeper.turn() as turn:
        workers, blocks = yield from turn.open(context, [], dtype="float32")
        given = stage.measure, statistics
        found = [
            workers.one(i % len(workers.actors), "measured", i, *given, label=f"block {i + 1}/{blocks}")
            for i in range(blocks)
        ]
        values: list[dict[str, float]] = []
        for block in found:
            values.append(ray.get(block))
            yield Progress(len(values), blocks)
        use = workers.use()
    measurements = Measurements(
        measure=stage.measure,
        title=stage.measure.title,
        blocks=tuple(math.fsum(block.values()) / len(block) for block in values),
        linears=tuple(values) if stage.measure.scope == "linear" else (),
    )
    yield use.made({"measurements": MeasurementsRef.made(context.content, measurements)})
