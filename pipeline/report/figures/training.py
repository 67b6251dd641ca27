"""The figures of a training in a report: a thinned curve to draw, and facts computed from the whole curve."""

import statistics
from collections.abc import Iterator, Sequence

from pipeline.artifacts.curve import Curve, KeepUpdate, StepRecord
from pipeline.canonical import Frozen
from pipeline.spec.training_recipe import TrainingRecipe

MAX_STEPS = 600
WINDOW = 20


class TrainingFigures(Frozen):
    """The figures of a training. `curve`: at most MAX_STEPS of its steps and as many of its updates;
    `curve.json` has all.

    `mean_losses`, `mean_language_modelling_losses`: means over the last WINDOW steps up to each step of
    `curve`. `recorded_steps`: number of steps before thinning. `tokens`: tokens trained on up to the result;
    `tokens_per_second`: median. `perplexity_before`, `perplexity_after`: on held-out text, before the first
    step and with the weights of the result.
    """

    curve: Curve
    recorded_steps: int
    mean_losses: tuple[float, ...]
    mean_language_modelling_losses: tuple[float, ...]
    tokens: int
    tokens_per_second: float | None
    skipped_steps: int
    memory_bytes: int | None
    gpu_memory_bytes: int | None
    perplexity_before: float | None
    perplexity_after: float | None


def training_figures(curve: Curve, recipe: TrainingRecipe) -> TrainingFigures:
    """Compute the figures from a whole curve and its recipe."""
    steps = curve.steps
    chosen = _chosen(steps)
    per_step = recipe.global_batch_size * recipe.text.sequence_length
    by_step = {validation.step: validation.perplexity for validation in curve.validations}
    return TrainingFigures(
        curve=curve.model_copy(
            update={"steps": tuple(steps[i] for i in chosen), "updates": _thinned(curve.updates)}
        ),
        recorded_steps=len(steps),
        mean_losses=_means([record.loss for record in steps], chosen),
        mean_language_modelling_losses=_means([record.language_modelling_loss for record in steps], chosen),
        tokens=curve.result_step * per_step,
        tokens_per_second=statistics.median(record.tokens_per_second for record in steps) if steps else None,
        skipped_steps=sum(record.skipped for record in steps),
        memory_bytes=_largest(record.memory_bytes for record in steps),
        gpu_memory_bytes=_largest(record.gpu_memory_bytes for record in steps),
        perplexity_before=by_step.get(0),
        perplexity_after=by_step.get(curve.result_step),
    )


class TrainingSummary(Frozen):
    """The summary of a training. `perplexity_before`, `perplexity_after`: on held-out text, of the weights
    that training began and ended with."""

    steps: int
    total_steps: int
    tokens: int
    tokens_per_second: float | None
    perplexity_before: float | None
    perplexity_after: float | None


def training_summary(figures: TrainingFigures) -> TrainingSummary:
    """The figures that tables of jobs show."""
    return TrainingSummary(
        steps=figures.curve.result_step,
        total_steps=figures.curve.total_steps,
        tokens=figures.tokens,
        tokens_per_second=figures.tokens_per_second,
        perplexity_before=figures.perplexity_before,
        perplexity_after=figures.perplexity_after,
    )


def remarks_on(figures: TrainingFigures, *, of: str) -> Iterator[str]:
    """Sentences about deviations from the plan. `of`: the name of the training."""
    curve = figures.curve
    if curve.stopped == "early":
        made = "weights" if of == "training" else "masks"
        yield (
            f"{of} stopped early: the {made} are those after step {curve.result_step} of {curve.total_steps}"
        )
    if curve.starts > 1:
        yield f"{of} was started {curve.starts} times, and went on from its last checkpoint"
    if figures.skipped_steps:
        yield f"{figures.skipped_steps} steps of {of} were skipped: their gradients were beyond float16"


def _chosen(steps: Sequence[StepRecord]) -> list[int]:
    """Choose all steps, or the first, the last, and from each of MAX_STEPS / 3 stretches the steps with the
    lowest loss, the highest loss and the highest gradient norm, so that no spike is lost."""
    if len(steps) <= MAX_STEPS:
        return list(range(len(steps)))
    stretches = MAX_STEPS // 3 - 1
    chosen = {0, len(steps) - 1}
    for i in range(stretches):
        stretch = range(i * len(steps) // stretches, (i + 1) * len(steps) // stretches)
        losses = [(steps[j].loss, j) for j in stretch]
        chosen |= {min(losses)[1], max(losses)[1], max((steps[j].gradient_norm, j) for j in stretch)[1]}
    return sorted(chosen)


def _means(values: Sequence[float], chosen: Sequence[int]) -> tuple[float, ...]:
    return tuple(statistics.fmean(values[max(i + 1 - WINDOW, 0) : i + 1]) for i in chosen)


def _thinned(updates: Sequence[KeepUpdate]) -> tuple[KeepUpdate, ...]:
    every = -(-len(updates) // MAX_STEPS) or 1
    return tuple(updates[len(updates) - 1 :: -every][::-1]) if updates else ()


def _largest(values: Iterator[int | None]) -> int | None:
    return max((value for value in values if value is not None), default=None)
