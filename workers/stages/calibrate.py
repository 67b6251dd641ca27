"""Documents to calibration samples."""

import tempfile
from pathlib import Path

from transformers import AutoTokenizer

from pipeline.documents import read_documents
from pipeline.sources import open_source
from pipeline.stages import Calibrate
from pipeline.tokens import cut_samples, materialise_tokenizer
from workers.samples import put_samples
from workers.stages.base import Made, StageContext, Steps


def run(stage: Calibrate, context: StageContext) -> Steps:
    """Tokenised with the model's own tokenizer, cut as the spec says."""
    calibration = context.order.request.spec.calibration
    pin = context.order.pins.calibration
    assert calibration is not None
    assert pin is not None
    access = context.settings.access()
    documents = read_documents(
        calibration, pin, open_source(pin.source, access, repository="dataset"), access
    )
    with tempfile.TemporaryDirectory() as directory:
        materialise_tokenizer(context.checkpoint(), context.content, Path(directory))
        tokenizer = AutoTokenizer.from_pretrained(directory)
    tokens_NL = cut_samples(documents, tokenizer, calibration)
    yield Made(
        {"samples": put_samples(context.content, tokens_NL)}, details={"tokens": float(tokens_NL.numel())}
    )
