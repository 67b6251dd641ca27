"""The report of a sweep: its members side by side, and the picture of which ones nothing beats."""

import json
from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import Field, TypeAdapter

from pipeline.artifacts.environment import Environment
from pipeline.canonical import Frozen
from pipeline.evaluation.comparison import Comparison
from pipeline.evaluation.task_comparison import TaskComparison
from pipeline.job.ledger import NodeResult
from pipeline.report.block_chart import BOTTOM, LEFT, PANEL_TOP, WIDTH, Tick
from pipeline.report.data import ReportDocument
from pipeline.report.panels import RIGHT, CurveChart, CurvePanel, Dot, Line, axis
from pipeline.request.prune_spec import Prune, PruneSpec
from pipeline.sources.pins import Pins

HEIGHT = 300.0
MARGIN = 0.02  # of sparsity on both sides, so that members of one sparsity have an axis too


class SweepMember(Frozen):
    """`number`: from 1, as in the nodes' ids. `sparsity`: what was achieved. `seconds`: of making its masks.
    `checkpoint`: digest of the pruned checkpoint. `best`: no other member is at least as sparse and at least
    as good on the first text, and better in one of them."""

    number: int
    title: str
    prune: Prune
    sparsity: float
    perplexity: tuple[Comparison, ...]
    tasks: tuple[TaskComparison, ...] = ()
    seconds: float
    checkpoint: str
    notes: tuple[str, ...] = ()
    best: bool = False


class SweepData(Frozen):
    """Everything that the page shows. `declared_memory_bytes`: of each worker."""

    model_name: str
    job: str | None = None
    job_name: str | None = None
    spec: PruneSpec
    pins: Pins
    members: tuple[SweepMember, ...]
    stages: tuple[NodeResult, ...]
    environment: Environment
    declared_memory_bytes: int | None = None


class SweepDocument(Frozen):
    """Content of a sweep's `report.json`."""

    object: Literal["sweep_report"] = "sweep_report"
    recipe: str
    data: SweepData


_ANY: TypeAdapter[ReportDocument | SweepDocument] = TypeAdapter(
    Annotated[ReportDocument | SweepDocument, Field(discriminator="object")]
)


def sweep_json(document: SweepDocument) -> bytes:
    """`report.json`, indented."""
    text = json.dumps(document.model_dump(mode="json"), indent=1, ensure_ascii=False, allow_nan=False)
    return (text + "\n").encode()


def read_any_report(content: bytes | str) -> ReportDocument | SweepDocument:
    """`report.json` of a job, whatever it did."""
    return _ANY.validate_json(content)


def best_of(points: Sequence[tuple[float, float]]) -> tuple[bool, ...]:
    """Of points (sparsity, perplexity): whether no other one is as sparse or sparser and as good or better,
    without being equal in both (Pareto)."""
    return tuple(
        not any(
            sparsity >= own_sparsity
            and perplexity <= own_perplexity
            and (sparsity, perplexity) != (own_sparsity, own_perplexity)
            for sparsity, perplexity in points
        )
        for own_sparsity, own_perplexity in points
    )


def sweep_chart(members: Sequence[SweepMember]) -> CurveChart:
    """Perplexity on the first text over sparsity; a line through those that nothing beats."""
    points = [(member.sparsity, member.perplexity[0].final) for member in members]
    dense = members[0].perplexity[0].dense
    across, named = axis(min(x for x, _ in points) - MARGIN, max(x for x, _ in points) + MARGIN)
    upwards, ticks = axis(min(dense, *(y for _, y in points)), max(y for _, y in points))
    top, bottom = PANEL_TOP, PANEL_TOP + HEIGHT

    def x_of(sparsity: float) -> float:
        return round(LEFT + across(sparsity) * (WIDTH - LEFT - RIGHT), 2)

    def y_of(perplexity: float) -> float:
        return round(bottom - upwards(perplexity) * HEIGHT, 2)

    best = sorted(point for point, member in zip(points, members, strict=True) if member.best)
    path = "M" + "L".join(f"{x_of(x):g} {y_of(y):g}" for x, y in best)
    panel = CurvePanel(
        name="pareto",
        title=f"Perplexity of {members[0].perplexity[0].title} over sparsity",
        top=top,
        bottom=bottom,
        y_ticks=tuple(Tick(y_of(value), f"{value:g}") for value in ticks),
        lines=(Line("plain", path),),
        dots=tuple(
            Dot(
                "best" if member.best else "beaten",
                x_of(x),
                y_of(y),
                f"{member.number}: {member.title}, sparsity {x:.4f}, perplexity {y:.2f}",
            )
            for (x, y), member in zip(points, members, strict=True)
        ),
        reference=Tick(y_of(dense), f"dense {dense:.2f}"),
    )
    winner = members[min(range(len(points)), key=lambda i: points[i][1])]
    return CurveChart(
        width=WIDTH,
        height=bottom + BOTTOM,
        left=LEFT,
        right=WIDTH - RIGHT,
        panels=(panel,),
        x_ticks=tuple(Tick(x_of(value), f"{value:g}") for value in named),
        x_title="sparsity",
        marks=(),
        description=(
            f"{len(members)} members, {len(best)} of them beaten by none; lowest perplexity "
            f"{winner.perplexity[0].final:.2f} ({winner.title}), dense {dense:.2f}"
        ),
    )
