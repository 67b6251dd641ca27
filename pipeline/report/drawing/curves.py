"""The curves of a training, as geometry that the page draws: panels over one axis of steps."""

import math
from collections.abc import Iterable, Sequence
from itertools import pairwise

from pipeline.artifacts.curve import BlockFit, Curve, KeepUpdate
from pipeline.report.drawing.block_chart import Tick
from pipeline.report.drawing.panels import TALL, CurveChart, Points, Stack
from pipeline.report.figures.training import WINDOW, TrainingFigures


def curve_chart(
    figures: TrainingFigures, *, clipping: float | None, distilled: bool = False
) -> CurveChart | None:
    """Draw loss, learning rate, gradient norm, speed, and the updates of the zeros; None where nothing was
    recorded. `clipping`: limit of the gradient norm; `distilled`: True if the minimised loss is not the
    cross-entropy."""
    curve = figures.curve
    if not curve.steps:
        return None
    last = max(curve.total_steps, 1)
    steps = [record.step for record in curve.steps]

    def of(values: Iterable[float]) -> Points:
        return list(zip(steps, values, strict=True))

    entropy = of(record.language_modelling_loss for record in curve.steps)
    losses = of(record.loss for record in curve.steps)
    held_out = [(validation.step, validation.loss) for validation in curve.validations]
    stack = Stack(last)
    words = f"in nats: thin, each step; thick, mean of {WINDOW}"
    if distilled:
        stack.add(
            "minimised",
            f"What is minimised, {words}",
            {"raw": losses, "mean": of(figures.mean_losses)},
            height=TALL,
        )
    stack.add(
        "loss",
        f"Cross-entropy {words}" + ("; dots, held-out text" if held_out else ""),
        {"raw": entropy, "mean": of(figures.mean_language_modelling_losses), "validation": held_out},
        height=TALL,
        dots={"validation": lambda step, loss: f"step {step:g}: {loss:.4f}, perplexity {_exp(loss):.2f}"},
    )
    rates = of(record.learning_rate for record in curve.steps)
    stack.add("rate", "Learning rate", {"plain": rates}, floor=0.0)
    norms = of(record.gradient_norm for record in curve.steps if not record.skipped or record.gradient_norm)
    stack.add("norm", "Gradient norm before clipping", {"plain": norms}, reference=_clipped(clipping, norms))
    speeds = of(record.tokens_per_second for record in curve.steps)
    stack.add("speed", "Tokens per second", {"plain": speeds}, floor=0.0)
    _add_updates(stack, curve.updates)
    return stack.chart(
        x_title="step",
        x_ticks=stack.whole_ticks(wanted=4),
        description=_described(figures),
        marks=marks_of(curve, stack),
    )


def marks_of(curve: Curve, stack: Stack) -> list[Tick]:
    """The steps to mark: a start after a lost worker, and the step whose weights are the result."""
    marks = [
        Tick(stack.x(after.step), f"start {after.started}")
        for before, after in pairwise(curve.steps)
        if after.started > before.started
    ]
    if curve.steps and curve.result_step < curve.steps[-1].step:
        marks.append(Tick(stack.x(curve.result_step), f"result: step {curve.result_step}"))
    return marks


def fit_chart(blocks: Sequence[BlockFit]) -> CurveChart | None:
    """Draw each block's distance to the dense one before and after reconstruction; None without blocks."""
    if not blocks:
        return None
    last = max(blocks[-1].block, 1)
    stack = Stack(last)
    stack.add(
        "fit",
        "Squared distance to the dense block's output, relative to its mean square",
        {
            "before": [(fit.block, fit.before) for fit in blocks],
            "after": [(fit.block, fit.after) for fit in blocks],
        },
        height=TALL,
        dots={
            "before": lambda block, value: f"block {block:g} before: {value:.4g}",
            "after": lambda block, value: f"block {block:g} after: {value:.4g}",
        },
    )
    before = math.fsum(fit.before for fit in blocks) / len(blocks)
    after = math.fsum(fit.after for fit in blocks) / len(blocks)
    return stack.chart(
        x_title="block",
        x_ticks=stack.whole_ticks(wanted=10),
        description=f"{len(blocks)} blocks; mean distance {before:.4g} before, {after:.4g} after",
    )


def _add_updates(stack: Stack, updates: Sequence[KeepUpdate]) -> None:
    if not updates:
        return
    moved: dict[str, Points] = {"dropped": [(u.step, u.dropped) for u in updates]}
    title = "Weights dropped at each update of the zeros"
    if any(update.grown for update in updates):
        moved["grown"] = [(u.step, u.grown) for u in updates]
        title = "Weights dropped and grown at each update of the zeros"
    stack.add("moved", title, moved, floor=0.0)
    if len({update.zeros for update in updates}) > 1:
        stack.add("zeros", "Weights held at zero", {"plain": [(u.step, u.zeros) for u in updates]})


def _clipped(clipping: float | None, norms: Points) -> tuple[float, str] | None:
    """The dashed line at the clipping limit, if it lies in the range of the values."""
    values = [value for _, value in norms if math.isfinite(value)]
    if clipping is None or not values or not min(values) <= clipping <= max(values):
        return None
    return clipping, f"clipped to {clipping:g}"


def _exp(loss: float) -> float:
    return math.exp(min(loss, 700.0))


def _described(figures: TrainingFigures) -> str:
    first, last = figures.mean_losses[0], figures.mean_losses[-1]
    words = f"{figures.recorded_steps} steps; training loss from {first:.4f} to {last:.4f}"
    held_out = figures.curve.validations
    if held_out:
        words += f"; loss on held-out text from {held_out[0].loss:.4f} to {held_out[-1].loss:.4f}"
    return words
