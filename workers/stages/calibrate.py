"""The stage that makes calibration samples from documents."""

from collections.abc import Iterable

from pipeline.dag.stages.sources import Calibrate
from pipeline.sources import open_source
from pipeline.spec.texts import Calibration
from pipeline.text.documents import ChatReader, read_documents
from pipeline.text.loading import load_tokenizer
from pipeline.text.token_rows import check_token_rows, embedding_rows
from pipeline.text.tokens import Tokenizer, cut_samples
from workers.context import Made, StageContext, Steps
from workers.stages.samples import put_samples


def run(stage: Calibrate, context: StageContext) -> Steps:
    """Tokenise the documents with the model's own tokenizer, and cut them as the spec says."""
    documents, tokenizer = calibration_text(stage.calibration, context)
    tokens_NL = cut_samples(documents, tokenizer, stage.calibration)
    check_token_rows(
        tokens_NL,
        tokenizer,
        rows=embedding_rows(context.checkpoint(), context.content),
        source=stage.calibration.source,
        field="spec.calibration.source",
    )
    yield Made(
        {"samples": put_samples(context.content, tokens_NL)}, details={"tokens": float(tokens_NL.numel())}
    )


def calibration_text(calibration: Calibration, context: StageContext) -> tuple[Iterable[str], Tokenizer]:
    """The documents that the spec names, and the tokenizer of the checkpoint."""
    pin = context.order.pins.of("spec.calibration.source")
    access = context.settings.access()
    source = open_source(pin.source, access, repository="dataset")
    tokenizer = load_tokenizer(context.checkpoint(), context.content)
    reader = ChatReader(tokenizer, context.order.request.spec.model.source)
    return read_documents(calibration, pin, source, access, reader=reader), tokenizer
