"""The stage that prunes block by block. It stores finished blocks; a later attempt continues after them."""

from pipeline.artifacts.refs import StatisticsRef
from pipeline.blocks.pruning import Pruning, prune_blocks, pruned_checkpoint, pruned_keep
from pipeline.checkpoint.statistics import read_statistics
from pipeline.dag.stages import stage_key
from pipeline.dag.stages.pruning import MeasureStatistics, PruneBlocks
from pipeline.job.ledger import find_result
from pipeline.spec.sparsity_plan import SparsityPlan
from pipeline.tensor.statistics import LinearStatistics
from workers.context import StageContext, Steps
from workers.stages.samples import load_samples
from workers.turns import Keeper, made_by


def run(stage: PruneBlocks, context: StageContext, keeper: Keeper) -> Steps:
    """Prune the blocks with the plan and the statistics that earlier stages made."""
    content = context.content
    samples = load_samples(context) if "samples" in context.inputs else []
    statistics = context.inputs.get("statistics")
    assert statistics is None or isinstance(statistics, StatisticsRef)
    pruning = Pruning(
        method=stage.method,
        plan=context.load("plan", SparsityPlan),
        propagation=stage.propagation,
        samples=len(samples),
        reconstruction=stage.reconstruction,
        statistics=statistics,
        block_0=_measured_before(stage, context),
        reproducible=stage.reproducible,
    )
    with keeper.turn() as turn:
        crew = yield from turn.open(context, samples, dtype=stage.compute_dtype)
        pruned = yield from prune_blocks(crew, pruning, progress=context.progress)
        use = crew.use()
    checkpoint = pruned_checkpoint(content, context.checkpoint(), pruned)
    yield made_by(use, {"checkpoint": checkpoint, "keep": pruned_keep(content, pruned)})


def _measured_before(stage: PruneBlocks, context: StageContext) -> tuple[LinearStatistics, ...] | None:
    """The statistics of block 0, if an allocation measured them: block 0 sees the same in the dense model."""
    if stage.propagation != "pruned" or stage.method.needs != {"input_norm"}:
        return None
    sweep = MeasureStatistics(needs=("input_norm",), compute_dtype=stage.compute_dtype)
    inputs = {name: context.inputs[name] for name in ("checkpoint", "samples")}
    result = find_result(context.content, stage_key(sweep, inputs, salt=context.order.salt))
    if result is None:
        return None
    ref = result.artifacts["statistics"]
    assert isinstance(ref, StatisticsRef)
    return tuple(read_statistics(context.content, ref, 0))
