"""Panels of lines and dots over one axis, as geometry that the page draws.

All lengths are in the user units of one SVG view box; y grows downwards.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise

from pipeline.report.drawing.block_chart import BOTTOM, LEFT, PANEL_GAP, PANEL_TOP, WIDTH, Tick, nice_ticks
from pipeline.report.quantity import human_count

RIGHT = 20.0
TALL, LOW = 170.0, 80.0
LOG_ABOVE = 30.0  # highest over lowest value from which an axis is logarithmic
LEVELS = 16  # shades of a heat map
HIGHEST_ROW, MAP_HEIGHT, ROW_LABEL = 14.0, 240.0, 13.0
MIN_SHARE = 1e-12  # the lowest value of a logarithmic axis, as a share of its highest value
Points = Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Line:
    """A curve. `name`: its CSS class in the page. `path`: data of an SVG path element."""

    name: str
    path: str


@dataclass(frozen=True)
class Dot:
    """One measured point with its label."""

    name: str
    x: float
    y: float
    label: str


@dataclass(frozen=True)
class Cells:
    """All cells of a heat map with the same `heat`, in [0, 1]. `path`: data of an SVG path element."""

    heat: float
    path: str


@dataclass(frozen=True)
class CurvePanel:
    """Lines and dots, or cells, over one y axis. `reference`: y of a dashed line across."""

    name: str
    title: str
    top: float
    bottom: float
    y_ticks: tuple[Tick, ...]
    lines: tuple[Line, ...] = ()
    dots: tuple[Dot, ...] = ()
    cells: tuple[Cells, ...] = ()
    reference: Tick | None = None


@dataclass(frozen=True)
class CurveChart:
    """The whole picture. `marks`: the marked steps on the x axis: a start after a lost worker, and the step
    whose weights are the result."""

    width: float
    height: float
    left: float
    right: float
    panels: tuple[CurvePanel, ...]
    x_ticks: tuple[Tick, ...]
    x_title: str
    marks: tuple[Tick, ...]
    description: str


def axis(
    low: float, high: float, *, floor: float | None = None
) -> tuple[Callable[[float], float], list[float]]:
    """Return a function that maps values to places on an axis, in [0, 1], and the values of its ticks. The
    axis is logarithmic if the values span a wide range, unless it must begin at `floor`."""
    if floor is None and low > 0 and high / low > LOG_ABOVE:
        return _logarithmic(max(low, high * MIN_SHARE), high)
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


class Stack:
    """Panels one below the other over steps from 0 to `last`."""

    def __init__(self, last: float) -> None:
        self.last = last
        self.top = PANEL_TOP
        self.panels: list[CurvePanel] = []

    def x(self, step: float) -> float:
        """The x of a step."""
        return round(LEFT + step / self.last * (WIDTH - LEFT - RIGHT), 2)

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
        """Add a panel with lines by CSS class. The lines in `dots` show their points, with labels from these
        functions."""
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

    def add_map(
        self, name: str, title: str, columns: Sequence[float], rows: Sequence[Sequence[float]]
    ) -> None:
        """Add a heat map: a row for each block, the first on top, with a value for each of the steps
        `columns`, which ascend. The lowest value is the lightest, and the highest the darkest."""
        low, high = min(map(min, rows)), max(map(max, rows))
        row = min(HIGHEST_ROW, MAP_HEIGHT / len(rows))
        top, bottom = self.top, round(self.top + row * len(rows), 2)
        between = [(one + other) / 2 for one, other in pairwise(columns)]
        edges = [self.x(step) for step in (columns[0], *between, columns[-1])]
        found: dict[int, list[str]] = {}
        for i, values in enumerate(rows):
            levels = [round((value - low) / (high - low or 1.0) * LEVELS) for value in values]
            start = 0
            for level, run in groupby(levels):
                end = start + len(list(run))
                left, width = edges[start], edges[end] - edges[start]
                found.setdefault(level, []).append(
                    f"M{left:g} {top + i * row:.2f}h{width:.2f}v{row:.2f}h{-width:.2f}z"
                )
                start = end
        every = next(step for step in (1, 2, 5, 10, 20, 50, 100, 1000) if step * row >= ROW_LABEL)
        self.panels.append(
            CurvePanel(
                name=name,
                title=title,
                top=top,
                bottom=bottom,
                y_ticks=tuple(
                    Tick(round(top + (i + 0.5) * row, 2), str(i)) for i in range(0, len(rows), every)
                ),
                cells=tuple(Cells(level / LEVELS, "".join(found[level])) for level in sorted(found)),
            )
        )
        self.top = bottom + PANEL_GAP

    def chart(
        self, *, x_title: str, x_ticks: Sequence[Tick], description: str, marks: Sequence[Tick] = ()
    ) -> CurveChart:
        """The picture of all panels so far."""
        return CurveChart(
            width=WIDTH,
            height=self.top - PANEL_GAP + BOTTOM,
            left=LEFT,
            right=WIDTH - RIGHT,
            panels=tuple(self.panels),
            x_ticks=tuple(x_ticks),
            x_title=x_title,
            marks=tuple(marks),
            description=description,
        )

    def whole_ticks(self, *, wanted: int) -> tuple[Tick, ...]:
        """The ticks at whole numbers on the axis that all panels share."""
        values = nice_ticks(self.last, wanted=wanted)
        return tuple(Tick(self.x(at), _named(at)) for at in values if at <= self.last and at == int(at))


def _path(points: Points) -> str:
    return "M" + "L".join(f"{x:g} {y:g}" for x, y in points)


def _named(value: float) -> str:
    return human_count(value) if value >= 10_000 else f"{value:g}"
