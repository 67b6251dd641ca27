"""The stage that measures perplexities of one checkpoint, with one of its blocks in memory at a time."""

from pipeline.architecture.parts import Pairs
from pipeline.artifacts.refs import CheckpointRef, EvaluationRef
from pipeline.blocks.losses import sequence_losses
from pipeline.dag.stages.results import Evaluate
from pipeline.sources import open_source
from pipeline.spec.evaluation import EvaluationResult, PerplexityText
from pipeline.text.documents import ChatReader, read_documents
from pipeline.text.loading import load_tokenizer
from pipeline.text.token_rows import embedding_rows
from pipeline.text.tokens import tokenizer_digest
from pipeline.text.windows import Windows, cut, figure
from workers.context import Made, StageContext, Steps
from workers.turns import Keeper, made_by


def run(stage: Evaluate, context: StageContext, keeper: Keeper) -> Steps:
    """Run all windows of all texts through the blocks together, divided among the workers."""
    checkpoint = context.checkpoint()
    tokenizer = tokenizer_digest(checkpoint)
    texts = keeper.once(
        f"windows {tokenizer}",
        cut_windows,
        stage.evaluation.perplexity,
        checkpoint,
        context,
        pairs=stage.pairs,
    )
    windows = [window for text in texts for window in text.tokens]
    scored = [count for text in texts for count in text.scored]
    outcomes: list[tuple[float, int]] = []
    use = None
    if windows:
        with keeper.turn() as turn:
            crew = yield from turn.open(context, windows, dtype=stage.compute_dtype)
            outcomes = yield from sequence_losses(crew, scored)
            use = crew.use()
    rest = iter(outcomes)
    result = EvaluationResult(
        checkpoint_digest=checkpoint.digest,
        perplexity=tuple(
            figure(
                text,
                [next(rest) for _ in text.tokens],
                tokenizer=tokenizer,
                dtype=stage.compute_dtype,
                device=use.device if use is not None else None,
            )
            for text in texts
        ),
    )
    artifacts = {"evaluation": EvaluationRef.made(context.content, result)}
    tokens = float(sum(len(window) for window in windows))
    yield Made(artifacts) if use is None else made_by(use, artifacts, tokens=tokens)


def cut_windows(
    texts: tuple[PerplexityText, ...],
    checkpoint: CheckpointRef,
    context: StageContext,
    *,
    pairs: Pairs | None = None,
) -> list[Windows]:
    """The windows of all texts of `evaluation.perplexity`, cut with a checkpoint's own tokenizer. `pairs`:
    see Evaluate."""
    access = context.settings.access()
    found = []
    tokenizer = load_tokenizer(checkpoint, context.content)
    rows = embedding_rows(checkpoint, context.content)
    reader = ChatReader(tokenizer, context.order.request.spec.model.source)
    for i, text in enumerate(texts):
        field = f"spec.evaluation.perplexity.{i}.source"
        pin = context.order.pins.of(field)
        source = open_source(pin.source, access, repository="dataset")
        documents = read_documents(text, pin, source, access, reader=reader)
        found.append(cut(text, documents, tokenizer, rows=rows, field=field, pairs=pairs))
    return found
