"""The stage that cuts a checkpoint to another size."""

from pipeline.artifacts.refs import CutRef, StatisticsRef
from pipeline.checkpoint.constructs import check_constructs
from pipeline.checkpoint.reader import CheckpointReader
from pipeline.checkpoint.scoring import StoredModel
from pipeline.checkpoint.slicing import full_config, slice_checkpoint
from pipeline.dag.stages.structure import Slice
from pipeline.structure.cut import sizes_after
from pipeline.structure.expert_table import ExpertGainTable
from pipeline.structure.table import SizeTable
from pipeline.structure.target import slow_sizes
from workers.context import Made, Note, Progress, StageContext, Steps
from workers.memory import peak_memory_bytes, reset_peak_memory


def run(stage: Slice, context: StageContext) -> Steps:
    """Cut tensor by tensor, so that memory holds one block and one whole tensor."""
    reset_peak_memory()
    content, ref = context.content, context.checkpoint()
    statistics = context.inputs.get("statistics")
    assert statistics is None or isinstance(statistics, StatisticsRef)
    model = StoredModel(content, CheckpointReader(content, ref), statistics)
    config = full_config(model.reader.config)
    check_constructs(stage.structure, config)
    cut = stage.structure.cut(model.row, config, model)
    for sentence in slow_sizes(model.sizes, sizes_after(cut, model.sizes)):
        yield Note(sentence, level="warning")
    checkpoint = None
    changes = stage.structure.changes(model.row, config)
    for made in slice_checkpoint(content, model.reader, cut, like=ref, changes=changes):
        if isinstance(made, int):
            yield Progress(made, len(cut.blocks))
        else:
            checkpoint = made
    assert checkpoint is not None, "slicing ends with what it made"
    table = SizeTable(
        dense=model.sizes,
        cut=sizes_after(cut, model.sizes),
        dense_parameters=model.reader.weights,
        cut_parameters=CheckpointReader(content, checkpoint).weights,
        blocks=tuple(block.block for block in cut.blocks),
    )
    chosen = stage.structure.experts
    measured = chosen is not None and chosen.needs_samples
    gains = [ExpertGainTable.of(cut, model.experts())] if measured else []
    yield Made(
        {"checkpoint": checkpoint, "cut": CutRef.made(content, cut, table, *gains)},
        peak_memory_bytes=peak_memory_bytes(),
    )
