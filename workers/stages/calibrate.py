"""The stage that makes calibration samples from documents."""

from collections.abc import Iterable

from torch import Tensor

from pipeline.dag.stages.sources import Calibrate, HoldOut
from pipeline.sources import open_source
from pipeline.spec.texts import Calibration
from pipeline.text.documents import ChatReader, read_documents
from pipeline.text.loading import LoadedTokenizer, load_tokenizer
from pipeline.text.spans import Gaps
from pipeline.text.token_rows import check_token_rows, embedding_rows
from pipeline.text.tokens import cut_samples
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
    samples_NL = as_pairs(tokens_NL, tokenizer, stage)
    yield Made(
        {"samples": put_samples(context.content, samples_NL)}, details={"tokens": float(samples_NL.numel())}
    )


def as_pairs(tokens_NL: Tensor, tokenizer: LoadedTokenizer, stage: Calibrate | HoldOut) -> Tensor:
    """What an encoder-decoder reads and writes of each sample; for other models the samples as they are."""
    if stage.pairs is None:
        return tokens_NL
    return Gaps.of(tokenizer, field="spec.calibration").pairs(tokens_NL, seed=stage.calibration.seed)


def calibration_text(
    calibration: Calibration, context: StageContext
) -> tuple[Iterable[str], LoadedTokenizer]:
    """The documents that the spec names, and the tokenizer of the checkpoint."""
    pin = context.order.pins.of("spec.calibration.source")
    access = context.settings.access()
    source = open_source(pin.source, access, repository="dataset")
    tokenizer = load_tokenizer(context.checkpoint(), context.content)
    reader = ChatReader(tokenizer, context.order.request.spec.model.source)
    return read_documents(calibration, pin, source, access, reader=reader), tokenizer
