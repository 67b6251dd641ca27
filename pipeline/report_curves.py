"""The curves of recovery training, as geometry that the page draws: panels over one axis of steps.

All lengths are in the user units of one SVG view box; y grows downwards.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from pipeline.quantity import human_count
from pipeline.report_chart import BOTTOM, LEFT, PANEL_GAP, PANEL_TOP, WIDTH, Tick, nice_ticks
from pipeline.training import BlockFit, KeepUpdate
from pipeline.training_figures import WINDOW, TrainingFigures

RIGHT = 20.0
TALL, LOW = 170.0, 80.0
LOG_ABOVE = 30.0  # highest over lowest value from which an axis is logarithmic
SMALLEST = 1e-12  # what a logarithmic axis tells apart from nothing, as a share of its highest value
Points = Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Line:
    """`name`: its class in the page. `path`: of an SVG path element."""

    name: str
    path: str


@dataclass(frozen=True)
class Dot:
    """One measured point with its words."""

    name: str
    x: float
    y: float
    label: str


@dataclass(frozen=True)
class CurvePanel:
    """Lines and dots over one y axis. `reference`: y of a dashed line across."""

    name: str
    title: str
    top: float
    bottom: float
    y_ticks: tuple[Tick, ...]
    lines: tuple[Line, ...] = ()
    dots: tuple[Dot, ...] = ()
    reference: Tick | None = None


@dataclass(frozen=True)
class CurveChart:
    """The whole picture. `marks`: x of steps worth knowing: a start after a lost worker, the step whose
    weights are the result."""

    width: float
    height: float
    left: float
    right: float
    panels: tuple[CurvePanel, ...]
    x_ticks: tuple[Tick, ...]
    x_title: str
    marks: tuple[Tick, ...]
    description: str


def curve_chart(
    figures: TrainingFigures, *, clipping: float | None, distilled: bool = False
) -> CurveChart | None:
    """Loss, learning rate, gradient norm, speed, and what became of the zeros; None where nothing was
    recorded. `clipping`: of the gradient's norm; `distilled`: what is minimised is not the cross-entropy."""
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
    stack = _Stack(last)
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
    marks = []
    for before, after in zip(curve.steps, curve.steps[1:], strict=False):
        if after.started > before.started:
            marks.append(Tick(stack.x(after.step), f"start {after.started}"))
    if curve.result_step < steps[-1]:
        marks.append(Tick(stack.x(curve.result_step), f"result: step {curve.result_step}"))
    return CurveChart(
        width=WIDTH,
        height=stack.top - PANEL_GAP + BOTTOM,
        left=LEFT,
        right=WIDTH - RIGHT,
        panels=tuple(stack.panels),
        x_ticks=tuple(Tick(stack.x(step), _named(step)) for step in nice_ticks(last) if step <= last),
        x_title="step",
        marks=tuple(marks),
        description=_described(figures),
    )


def fit_chart(blocks: Sequence[BlockFit]) -> CurveChart | None:
    """Distance of each block to the dense one before and after reconstruction; None without blocks."""
    if not blocks:
        return None
    last = max(blocks[-1].block, 1)
    stack = _Stack(last)
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
    return CurveChart(
        width=WIDTH,
        height=stack.top - PANEL_GAP + BOTTOM,
        left=LEFT,
        right=WIDTH - RIGHT,
        panels=tuple(stack.panels),
        x_ticks=tuple(
            Tick(stack.x(at), f"{at:g}") for at in nice_ticks(last, wanted=10) if at <= last and at == int(at)
        ),
        x_title="block",
        marks=(),
        description=f"{len(blocks)} blocks; mean distance {before:.4g} before, {after:.4g} after",
    )


def axis(
    low: float, high: float, *, floor: float | None = None
) -> tuple[Callable[[float], float], list[float]]:
    """Where values lie on an axis, in [0, 1], and the values that it names. Logarithmic where they span a
    lot, unless it must begin at `floor`."""
    if floor is None and low > 0 and high / low > LOG_ABOVE:
        return _logarithmic(max(low, high * SMALLEST), high)
    bottom = low if floor is None else floor
    span = max(high - bottom, abs(high) * 1e-9) or 1.0
    size = nice_ticks(span)[1]
    first, last = math.floor(bottom / size + 1e-9), math.ceil((bottom + span) / size - 1e-9)
    ticks = [float(f"{i * size:.12g}") for i in range(first, last + 1)]
    return (lambda value: (value - ticks[0]) / (ticks[-1] - ticks[0])), ticks


def _logarithmic(low: float, high: float) -> tuple[Callable[[float], float], list[float]]:
    start, end = math.log10(low), math.log10(high)
    decades = range(math.floor(start), math.ceil(end) + 1)
    named = [m * 10.0**p for p in decades for m in (1, 2, 5)]
    if end - start > 2:
        named = [10.0**p for p in decades[:: 1 + len(decades) // 8]]
    ticks = [value for value in named if low <= value <= high]
    return (lambda value: (math.log10(max(value, low)) - start) / (end - start)), ticks


class _Stack:
    """Panels one below the other over steps from 0 to `last`."""

    def __init__(self, last: float) -> None:
        self._last = last
        self.top = PANEL_TOP
        self.panels: list[CurvePanel] = []

    def x(self, step: float) -> float:
        """Where a step is."""
        return round(LEFT + step / self._last * (WIDTH - LEFT - RIGHT), 2)

    def add(
        self,
        name: str,
        title: str,
        lines: dict[str, Points],
        *,
        height: float = LOW,
        floor: float | None = None,
        reference: tuple[float, str] | None = None,
        dots: dict[str, Callable[[float, float], str]] | None = None,
    ) -> None:
        """Lines by class; those in `dots` show their points, with these words."""
        finite = {which: [p for p in points if math.isfinite(p[1])] for which, points in lines.items()}
        values = [value for points in finite.values() for _, value in points]
        if not values:
            return
        place, ticks = axis(min(values), max(values), floor=floor)
        top, bottom = self.top, self.top + height

        def y(value: float) -> float:
            return round(bottom - place(value) * height, 2)

        words = dots or {}
        self.panels.append(
            CurvePanel(
                name=name,
                title=title,
                top=top,
                bottom=bottom,
                y_ticks=tuple(Tick(y(value), _named(value)) for value in ticks),
                lines=tuple(
                    Line(which, _path([(self.x(step), y(value)) for step, value in points]))
                    for which, points in finite.items()
                    if points
                ),
                dots=tuple(
                    Dot(which, self.x(step), y(value), words[which](step, value))
                    for which, points in finite.items()
                    if which in words
                    for step, value in points
                ),
                reference=None if reference is None else Tick(y(reference[0]), reference[1]),
            )
        )
        self.top = bottom + PANEL_GAP


def _add_updates(stack: _Stack, updates: Sequence[KeepUpdate]) -> None:
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


def _path(points: Points) -> str:
    return "M" + "L".join(f"{x:g} {y:g}" for x, y in points)


def _named(value: float) -> str:
    return human_count(value) if value >= 10_000 else f"{value:g}"


def _clipped(clipping: float | None, norms: Points) -> tuple[float, str] | None:
    """A dashed line where the norm is clipped, if it lies among the values."""
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
