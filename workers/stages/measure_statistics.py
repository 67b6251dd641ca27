"""The dense sweep measures every linear's input. A later attempt continues after the last stored block."""

from pipeline.blocks.measuring import measure_statistics
from pipeline.dag.stages.pruning import MeasureStatistics
from workers.context import StageContext, Steps
from workers.stages.samples import load_samples
from workers.turns import Keeper, made_by


def run(stage: MeasureStatistics, context: StageContext, keeper: Keeper) -> Steps:
    """Run each block once, which gives its statistics and the inputs of the next block."""
    samples = load_samples(context)
    with keeper.turn() as turn:
        crew = yield from turn.open(context, samples, dtype=stage.compute_dtype)
        statistics = yield from measure_statistics(
            crew,
            frozenset(stage.needs),
            samples=len(samples),
            progress=context.progress,
            reproducible=stage.reproducible,
        )
        use = crew.use()
    yield made_by(use, {"statistics": statistics})
