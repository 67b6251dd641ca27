"""The stage that measures perplexities of one checkpoint, with one of its blocks in memory at a time."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.artifacts.refs import EvaluationRef
from pipeline.blocks.losses import sequence_losses
from pipeline.dag.stages.results import Evaluate
from pipeline.errors import NumericalError
from pipeline.sources import open_source
from pipeline.spec.evaluation import EvaluationResult, PerplexityContract, PerplexityResult
from pipeline.spec.model import way_to_finite
from pipeline.tensor.pairs import parted
from pipeline.text.documents import ChatReader, read_documents
from pipeline.text.loading import load_tokenizer
from pipeline.text.spans import Gaps
from pipeline.text.token_rows import check_token_rows, embedding_rows
from pipeline.text.tokens import (
    perplexity_tokens,
    perplexity_windows,
    tokenizer_digest,
)
from workers.context import Made, StageContext, Steps
from workers.turns import Keeper, made_by

GAPS_SEED = 0  # one draw of gaps for every model, so that figures can be compared


@dataclass(frozen=True)
class _Windows:
    """A text cut into windows: window i holds `tokens[i]` [L] and scores its last `scored[i]` predictions.
    For an encoder-decoder it is a pair (pipeline/tensor/pairs.py), and all that the decoder writes counts."""

    text_digest: str
    tokens_per_byte: float
    tokens: list[Tensor]
    scored: list[int]


def run(stage: Evaluate, context: StageContext, keeper: Keeper) -> Steps:
    """Run all windows of all texts through the blocks together, divided among the workers."""
    checkpoint = context.checkpoint()
    tokenizer = tokenizer_digest(checkpoint)
    texts = keeper.once(f"windows {tokenizer}", cut_windows, stage, context)
    windows = [window for text in texts for window in text.tokens]
    scored = [count for text in texts for count in text.scored]
    outcomes: list[tuple[float, int]] = []
    use = None
    if windows:
        with keeper.turn() as turn:
            crew = yield from turn.open(context, windows, dtype=stage.compute_dtype)
            outcomes = yield from sequence_losses(crew, scored)
            use = crew.use()
    result = EvaluationResult(
        checkpoint_digest=checkpoint.digest,
        perplexity=_results(
            stage, texts, outcomes, tokenizer=tokenizer, device=use.device if use is not None else None
        ),
    )
    artifacts = {"evaluation": EvaluationRef.made(context.content, result)}
    tokens = float(sum(len(window) for window in windows))
    yield Made(artifacts) if use is None else made_by(use, artifacts, tokens=tokens)


def cut_windows(stage: Evaluate, context: StageContext) -> list[_Windows]:
    """The windows of all texts, cut with the checkpoint's own tokenizer."""
    access = context.settings.access()
    cut = []
    checkpoint = context.checkpoint()
    tokenizer = load_tokenizer(checkpoint, context.content)
    rows = embedding_rows(checkpoint, context.content)
    reader = ChatReader(tokenizer, context.order.request.spec.model.source)
    for i, text in enumerate(stage.evaluation.perplexity):
        pin = context.order.pins.of(f"spec.evaluation.perplexity.{i}.source")
        source = open_source(pin.source, access, repository="dataset")
        documents = read_documents(text, pin, source, access, reader=reader)
        tokenised = perplexity_tokens(text, documents, tokenizer)
        check_token_rows(
            tokenised.tokens_T,
            tokenizer,
            rows=rows,
            source=text.source,
            field=f"spec.evaluation.perplexity.{i}.source",
        )
        windows = perplexity_windows(text, tokenised.tokens_T)
        if stage.pairs is not None:
            gaps = Gaps.of(tokenizer, field=f"spec.evaluation.perplexity.{i}")
            pairs_NL = gaps.pairs(torch.stack([tokens for tokens, _ in windows]), seed=GAPS_SEED)
            windows = [(pair_L, len(parted(pair_L)[1])) for pair_L in pairs_NL]
        cut.append(
            _Windows(
                tokenised.digest,
                tokenised.tokens_per_byte,
                [tokens for tokens, _ in windows],
                [scored for _, scored in windows],
            )
        )
    return cut


def _results(
    stage: Evaluate,
    texts: list[_Windows],
    outcomes: list[tuple[float, int]],
    *,
    tokenizer: str,
    device: str | None,
) -> tuple[PerplexityResult, ...]:
    results = []
    rest = iter(outcomes)
    for text, windows in zip(stage.evaluation.perplexity, texts, strict=True):
        own = [next(rest) for _ in windows.tokens]
        losses = tuple(total / count for total, count in own)
        loss = sum(total for total, _ in own) / sum(count for _, count in own)
        if not math.isfinite(loss):
            raise NumericalError(f"the loss on {text.label} is {loss}: {way_to_finite(stage.compute_dtype)}")
        assert text.bos is not None, "the plan fills it in"
        contract = PerplexityContract(
            text_digest=windows.text_digest,
            tokenizer_digest=tokenizer,
            sequence_length=text.sequence_length,
            stride=text.stride or text.text_length,
            bos=text.bos,
            windows=len(losses),
            tokens_scored=sum(count for _, count in own),
            tokens_per_byte=windows.tokens_per_byte,
            dtype=stage.compute_dtype,
            split=text.split,
            device=device,
            pairs=stage.pairs,
        )
        try:
            perplexity = math.exp(loss)
        except OverflowError as error:
            raise NumericalError(f"perplexity on {text.label} overflows: loss {loss}") from error
        results.append(
            PerplexityResult(
                name=text.label,
                contract=contract,
                loss=loss,
                perplexity=perplexity,
                window_losses=losses,
                window_tokens=tuple(count for _, count in own),
            )
        )
    return tuple(results)
