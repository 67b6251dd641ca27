"""The bar chart of measured values and sparsity per block, as geometry that the page draws.

All lengths are in the user units of one SVG view box; y grows downwards.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.allocations.measures import Measurements
from pipeline.artifacts.sparsity import SparsityTable
from pipeline.spec.sparsity_plan import SparsityPlan

WIDTH = 760.0
LEFT, RIGHT = 52.0, 8.0
PANEL_HEIGHT = 150.0
PANEL_TOP, PANEL_GAP, BOTTOM = 26.0, 44.0, 34.0
MAX_X_LABELS = 16


@dataclass(frozen=True)
class Bar:
    """The bar of one block. `mark`: y of the planned value, where a plan exists."""

    x: float
    y: float
    width: float
    height: float
    label: str
    mark: float | None = None


@dataclass(frozen=True)
class Tick:
    """A labelled place on an axis."""

    at: float
    label: str


@dataclass(frozen=True)
class Panel:
    """One row of bars with its own y axis. `reference`: y of a dashed line across."""

    name: str
    title: str
    top: float
    bottom: float
    bars: tuple[Bar, ...]
    y_ticks: tuple[Tick, ...]
    reference: Tick | None = None


@dataclass(frozen=True)
class Chart:
    """The whole picture; panels share the x axis."""

    width: float
    height: float
    left: float
    right: float
    panels: tuple[Panel, ...]
    x_ticks: tuple[Tick, ...]
    description: str


def block_chart(
    plan: SparsityPlan | None,
    table: SparsityTable,
    measurements: Measurements | None,
    *,
    asked: float | None,
) -> Chart:
    """Draw one bar per block: measured values, if the allocation measured any, above achieved sparsities.
    Lines show planned and asked sparsities, if there are any."""
    blocks = len(plan.blocks) if plan is not None else 1 + max(linear.block for linear in table.linears)
    achieved = block_sparsity(table, blocks=blocks)
    panels = []
    top = PANEL_TOP
    if measurements is not None:
        panels.append(_panel("measured", measurements.title, measurements.blocks, top=top))
        top += PANEL_HEIGHT + PANEL_GAP
    panels.append(
        _panel(
            "sparsity",
            "Sparsity: fraction of zeros in the block's linears",
            achieved,
            top=top,
            planned=plan.sparsity if plan is not None else None,
            reference=asked,
        )
    )
    return Chart(
        width=WIDTH,
        height=top + PANEL_HEIGHT + BOTTOM,
        left=LEFT,
        right=WIDTH - RIGHT,
        panels=tuple(panels),
        x_ticks=tuple(
            Tick(_center(block, blocks), str(block)) for block in range(0, blocks, _label_step(blocks))
        ),
        description=_description(achieved, measurements),
    )


def block_sparsity(table: SparsityTable, *, blocks: int) -> tuple[float, ...]:
    """The fraction of zeros over all linears of each block; 0 where the table has none."""
    zeros, weights = [0] * blocks, [0] * blocks
    for linear in table.linears:
        zeros[linear.block] += linear.zeros
        weights[linear.block] += linear.weights
    return tuple(z / w if w else 0.0 for z, w in zip(zeros, weights, strict=True))


def nice_ticks(maximum: float, *, wanted: int = 4) -> tuple[float, ...]:
    """Round values from 0 to at least `maximum`, about `wanted` steps of 1, 2 or 5 times a power of ten."""
    if maximum <= 0:
        return (0.0, 1.0)
    raw = maximum / wanted
    magnitude = 10.0 ** math.floor(math.log10(raw))
    size = next(m * magnitude for m in (1, 2, 5, 10) if m * magnitude >= raw * (1 - 1e-9))
    steps = math.ceil(maximum / size - 1e-9)
    return tuple(float(f"{step * size:.12g}") for step in range(steps + 1))


def _panel(
    name: str,
    title: str,
    values: Sequence[float],
    *,
    top: float,
    planned: Sequence[float] | None = None,
    reference: float | None = None,
) -> Panel:
    bottom = top + PANEL_HEIGHT
    ticks = nice_ticks(max([*values, *(planned or ()), reference or 0.0]))

    def y_of(value: float) -> float:
        return round(bottom - value / ticks[-1] * PANEL_HEIGHT, 2)

    slot = _slot(len(values))
    bars = []
    for block, value in enumerate(values):
        label = f"block {block}: {_figure(value)}"
        if planned is not None:
            label += f" (planned {_figure(planned[block])})"
        bars.append(
            Bar(
                x=round(_center(block, len(values)) - slot * 0.4, 2),
                y=y_of(value),
                width=round(slot * 0.8, 2),
                height=round(bottom - y_of(value), 2),
                label=label,
                mark=None if planned is None else y_of(planned[block]),
            )
        )
    return Panel(
        name=name,
        title=title,
        top=top,
        bottom=bottom,
        bars=tuple(bars),
        y_ticks=tuple(Tick(y_of(value), f"{value:g}") for value in ticks),
        reference=None if reference is None else Tick(y_of(reference), f"asked {reference:g}"),
    )


def _slot(blocks: int) -> float:
    return min((WIDTH - LEFT - RIGHT) / max(blocks, 1), 60.0)


def _center(block: int, blocks: int) -> float:
    return round(LEFT + (block + 0.5) * _slot(blocks), 2)


def _label_step(blocks: int) -> int:
    return next(
        (step for step in (1, 2, 5, 10, 20, 50, 100) if blocks / step <= MAX_X_LABELS),
        max(blocks // MAX_X_LABELS, 1),
    )


def _figure(value: float) -> str:
    return f"{value:.4g}"


def _description(achieved: Sequence[float], measurements: Measurements | None) -> str:
    words = f"{len(achieved)} blocks; sparsity from {min(achieved):.3f} to {max(achieved):.3f}"
    if measurements is not None:
        words += f"; measured from {min(measurements.blocks):.4g} to {max(measurements.blocks):.4g}"
    return words
