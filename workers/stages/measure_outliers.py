"""Dense sweep: outlier ratio of every block."""

import ray

from pipeline.artifacts import FileRef, Outliers, OutliersRef
from pipeline.canonical import canonical_json
from pipeline.methods.base import Needs
from pipeline.stages import MeasureOutliers
from workers.gang import GangKeeper
from workers.samples import load_samples
from workers.stages.base import Progress, StageContext, Steps

NEEDS: Needs = frozenset({"input_norm"})


def run(stage: MeasureOutliers, context: StageContext, keeper: GangKeeper) -> Steps:
    """One forward a block: its statistics, and the inputs of the next."""
    samples = load_samples(context)
    with keeper.turn() as turn:
        workers, blocks = yield from turn.open(context, samples, dtype=stage.compute_dtype)
        ratios = []
        for block in range(blocks):
            label = f"block {block + 1}/{blocks}"
            workers.all("load", block, label=label)
            statistics = workers.statistics(advance=True, needs=NEEDS, label=label)
            ratios.append(workers.one(0, "outlier_ratio", statistics, stage.multiplier, label=label))
            yield Progress(block + 1, blocks)
        outliers = Outliers(multiplier=stage.multiplier, ratios=tuple(ray.get(ratios)))
        memory = workers.memory()
    blob = context.content.put_bytes(canonical_json(outliers))
    artifact = OutliersRef(files=(FileRef(path="outliers.json", blob=blob),))
    yield memory.made({"outliers": artifact})
