"""The stage that scores a checkpoint by its loss on samples that pruning did not see."""

import math

from pipeline.allocations.tournament import Score
from pipeline.artifacts.refs import ScoreRef
from pipeline.blocks.losses import sequence_losses
from pipeline.dag.stages.pruning import ScoreHeldOut
from pipeline.errors import NumericalError
from pipeline.spec.model import way_to_finite
from workers.context import StageContext, Steps
from workers.stages.samples import load_samples
from workers.turns import Keeper, made_by


def run(stage: ScoreHeldOut, context: StageContext, keeper: Keeper) -> Steps:
    """Measure the loss over every token that the model predicts of each sample."""
    samples = load_samples(context)
    with keeper.turn() as turn:
        crew = yield from turn.open(context, samples, dtype=stage.compute_dtype)
        outcomes = yield from sequence_losses(crew, [len(sample) for sample in samples])
        use = crew.use()
    tokens = sum(count for _, count in outcomes)
    loss = math.fsum(total for total, _ in outcomes) / tokens
    try:
        score = Score(loss=loss, perplexity=math.exp(loss), tokens=tokens)
    except OverflowError as error:
        raise NumericalError(f"the perplexity on held-out samples overflows: loss {loss}") from error
    if not math.isfinite(loss):
        raise NumericalError(f"the loss on held-out samples is {loss}: {way_to_finite(stage.compute_dtype)}")
    yield made_by(use, {"score": ScoreRef.made(context.content, score)})
