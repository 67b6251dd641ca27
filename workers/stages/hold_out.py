"""The stage that makes samples from documents that the calibration does not take."""

from pipeline.dag.stages.sources import HoldOut
from pipeline.text.tokens import cut_held_out
from workers.context import Made, StageContext, Steps
from workers.stages.calibrate import as_pairs, calibration_text
from workers.stages.samples import put_samples


def run(stage: HoldOut, context: StageContext) -> Steps:
    """Cut samples as the calibration does, from text that it does not take."""
    documents, tokenizer = calibration_text(stage.calibration, context)
    tokens_NL = cut_held_out(documents, tokenizer, stage.calibration, samples=stage.samples)
    samples_NL = as_pairs(tokens_NL, tokenizer, stage)
    yield Made({"samples": put_samples(context.content, samples_NL)})
