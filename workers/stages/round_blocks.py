"""The stage that rounds weights by GPTQ, block by block. It walks, stores and continues as pruning does."""

from pipeline.architecture.rows import row_for
from pipeline.blocks.pruning import Pruning, prune_blocks, pruned_checkpoint
from pipeline.checkpoint.keeps import held_tensors
from pipeline.checkpoint.reader import CheckpointReader
from pipeline.dag.stages.quantizing import RoundBlocks
from pipeline.methods.gptq import GptqRounding
from pipeline.spec.patterns import Unstructured
from pipeline.spec.sparsity_plan import SparsityPlan
from workers.context import Note, StageContext, Steps
from workers.stages.samples import load_samples
from workers.turns import Keeper, made_by

TOKENS_PER_FEATURE = 4  # calibration tokens for each input of a linear, below which a Hessian is mostly noise


def run(stage: RoundBlocks, context: StageContext, keeper: Keeper) -> Steps:
    """Round each block with Hessians of what the rounded blocks before it give."""
    samples = load_samples(context)
    tokens, widest = sum(len(sample) for sample in samples), _widest_row(context)
    if tokens < TOKENS_PER_FEATURE * widest:
        yield Note(
            f"{tokens} calibration tokens are few for rows of {widest} weights: GPTQ then follows what is "
            f"chance in them, and may lose more than rtn; {TOKENS_PER_FEATURE * widest} and more are better",
            level="warning",
        )
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


def _widest_row(context: StageContext) -> int:
    """The largest number of inputs of a linear that is rounded."""
    reader = CheckpointReader(context.content, context.checkpoint())
    tensors, row = reader.index.tensors, row_for(str(reader.config["model_type"]))
    return max(tensors[one.name].shape[-1] for one in held_tensors(row, tensors))
