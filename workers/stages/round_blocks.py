"""The stage that rounds weights by GPTQ, block by block. It walks, stores and continues as pruning does."""

from pipeline.blocks.pruning import Pruning, prune_blocks, pruned_checkpoint
from pipeline.dag.stages.quantizing import RoundBlocks
from pipeline.methods.gptq import GptqRounding
from pipeline.spec.patterns import Unstructured
from pipeline.spec.sparsity_plan import SparsityPlan
from workers.context import StageContext, Steps
from workers.stages.samples import load_samples
from workers.turns import Keeper, made_by


def run(stage: RoundBlocks, context: StageContext, keeper: Keeper) -> Steps:
    """Round each block with Hessians of what the rounded blocks before it give."""
    samples = load_samples(context)
    with keeper.turn() as turn:
        crew = yield from turn.open(context, samples, dtype=stage.compute_dtype)
        nothing_more = Unstructured(sparsity=0)  # the zeros are there already
        rounding = Pruning(
            method=GptqRounding(form=stage.form),
            plan=SparsityPlan(asked=0, blocks=(nothing_more,) * crew.blocks),
            propagation="pruned",
            samples=len(samples),
            reproducible=stage.reproducible,
        )
        rounded = yield from prune_blocks(crew, rounding, progress=context.progress)
        use = crew.use()
    yield made_by(use, {"checkpoint": pruned_checkpoint(context.content, context.checkpoint(), rounded)})
