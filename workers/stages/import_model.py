"""The stage that copies a pinned checkpoint, the model or its teacher, into the content store."""

from pipeline.checkpoint.importing import Remark, import_checkpoint
from pipeline.dag.stages.sources import ImportModel
from pipeline.sources import open_source
from workers.context import Made, Note, Progress, StageContext, Steps

MEGABYTE = 1_000_000


def run(stage: ImportModel, context: StageContext) -> Steps:
    """Compare the checkpoint with its model, then stream it file by file, so that memory stays bounded by one
    chunk."""
    _, pin = context.source(stage.files)
    source = open_source(pin.source, context.settings.access())
    checkpoint = None
    for step in import_checkpoint(pin, source, context.content):
        if isinstance(step, int):
            yield Progress(step / MEGABYTE, max(pin.size, 1) / MEGABYTE)
        elif isinstance(step, Remark):
            yield Note(step.text)
        else:
            checkpoint = step
    assert checkpoint is not None
    yield Made({"checkpoint": checkpoint})
