"""The stage that measures a number per block, or per linear, for the allocation."""

import math

from pipeline.allocations.measures import Measurements
from pipeline.artifacts.refs import MeasurementsRef, StatisticsRef
from pipeline.blocks.measuring import measure_values
from pipeline.dag.stages.pruning import MeasureBlocks
from workers.context import StageContext, Steps
from workers.turns import Keeper, made_by


def run(stage: MeasureBlocks, context: StageContext, keeper: Keeper) -> Steps:
    """Compute the numbers from weights and stored statistics, without running a block."""
    statistics = context.inputs.get("statistics")
    assert statistics is None or isinstance(statistics, StatisticsRef)
    with keeper.turn() as turn:
        crew = yield from turn.open(context, [], dtype="float32")
        values = yield from measure_values(crew, stage.measure, statistics)
        use = crew.use()
    measurements = Measurements(
        measure=stage.measure,
        title=stage.measure.title,
        blocks=tuple(math.fsum(block.values()) / len(block) for block in values),
        linears=tuple(values) if stage.measure.scope == "linear" else (),
    )
    yield made_by(use, {"measurements": MeasurementsRef.made(context.content, measurements)})
