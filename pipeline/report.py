"""The report of a job: all figures as one model, as JSON, and as one self-contained HTML page."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import jinja2
import yaml
from pydantic import Field

from pipeline.artifacts import LinearSparsity, Outliers, SparsityTable
from pipeline.canonical import Frozen
from pipeline.comparison import AVERAGE, Comparison, TaskComparison, compare, compare_tasks
from pipeline.environment import Environment
from pipeline.evaluation import EvaluationResult
from pipeline.ledger import NodeResult
from pipeline.patterns import NM
from pipeline.plan import SparsityPlan
from pipeline.quantity import human_bytes, human_figure, human_metric, human_perplexity, human_seconds
from pipeline.report_chart import block_chart
from pipeline.sources.pins import Pins
from pipeline.spec import PruneSpec
from pipeline.task_results import TaskEvaluation

SPARSITY_TOLERANCE = 1e-3


class ReportData(Frozen):
    """Everything that the page shows.

    `stages`: the nodes that were done before the report, in plan order. `checkpoints`: digests of the
    artifacts by name (`dense`, `pruned`). `seeds`: every source of randomness by name. `warnings`: what a
    reader must know beside the plan's own notes.
    """

    model_name: str
    job: str | None = None
    job_name: str | None = None
    spec: PruneSpec
    pins: Pins
    plan: SparsityPlan
    sparsity: SparsityTable
    outliers: Outliers | None = None
    dense: EvaluationResult
    pruned: EvaluationResult
    dense_tasks: tuple[TaskEvaluation, ...] = ()
    pruned_tasks: tuple[TaskEvaluation, ...] = ()
    stages: tuple[NodeResult, ...]
    environment: Environment
    checkpoints: dict[str, str]
    manifest_prefix: str
    manifest_digest: str | None = None
    seeds: dict[str, int] = Field(default_factory=dict)
    warnings: tuple[str, ...] = ()

    @property
    def comparisons(self) -> tuple[Comparison, ...]:
        """Perplexities side by side. Raises UnequalContracts."""
        return compare(self.dense, self.pruned)

    @property
    def task_comparisons(self) -> tuple[TaskComparison, ...]:
        """lm-eval's figures side by side. Raises UnequalContracts."""
        asked = self.spec.evaluation.tasks
        return compare_tasks(self.dense_tasks, self.pruned_tasks, suite=asked.suite if asked else None)

    @property
    def notes(self) -> tuple[str, ...]:
        """Everything worth a warning, the achieved sparsity's deviation included."""
        return (*self.warnings, *self.plan.notes, *_deviation(self.plan, self.sparsity))


class Summary(Frozen):
    """The figures that tables of jobs show. `seconds`: of the stages that ran, cached ones left out."""

    model: str
    recipe: str
    asked_sparsity: float
    achieved_sparsity: float
    perplexity: tuple[Comparison, ...]
    tasks: tuple[TaskComparison, ...] = ()
    seconds: float
    peak_memory_bytes: int | None
    stages: int
    cached_stages: int
    notes: tuple[str, ...]


class ReportDocument(Frozen):
    """Content of `report.json`."""

    object: Literal["report"] = "report"
    summary: Summary
    data: ReportData


def report_json(data: ReportData) -> bytes:
    """`report.json`: a ReportDocument, indented. Raises UnequalContracts."""
    document = ReportDocument(summary=summarise(data), data=data)
    text = json.dumps(document.model_dump(mode="json"), indent=1, ensure_ascii=False, allow_nan=False)
    return (text + "\n").encode()


def read_report(content: bytes | str) -> ReportDocument:
    """The document back from its JSON."""
    return ReportDocument.model_validate_json(content)


def summarise(data: ReportData) -> Summary:
    """The headline figures. Raises UnequalContracts."""
    peaks = [s.measured.peak_memory_bytes for s in data.stages if s.measured.peak_memory_bytes is not None]
    return Summary(
        model=data.model_name,
        recipe=recipe_of(data.spec),
        asked_sparsity=data.plan.asked,
        achieved_sparsity=data.sparsity.sparsity,
        perplexity=data.comparisons,
        tasks=data.task_comparisons,
        seconds=sum(stage.measured.seconds for stage in data.stages if not stage.cached),
        peak_memory_bytes=max(peaks, default=None),
        stages=len(data.stages),
        cached_stages=sum(stage.cached for stage in data.stages),
        notes=data.notes,
    )


def recipe_of(spec: PruneSpec) -> str:
    """One line: method, allocation and pattern."""
    pattern = spec.prune.pattern
    kept = (
        f"{pattern.keep}:{pattern.group}" if isinstance(pattern, NM) else f"unstructured {pattern.target:g}"
    )
    return f"{spec.prune.method.kind} · {spec.prune.allocation.kind} · {kept}"


def seeds_of(spec: PruneSpec) -> dict[str, int]:
    """Every source of randomness of a spec by name."""
    tasks = spec.evaluation.tasks
    return {
        **({"calibration": spec.calibration.seed} if spec.calibration is not None else {}),
        **({"few-shot examples": tasks.seed} if tasks is not None else {}),
    }


def limits_of(tasks: Sequence[TaskComparison]) -> str:
    """`limit 25`, or `limit 25 to 100`; empty when all questions were asked."""
    limits = sorted({task.limit for task in tasks if task.limit is not None})
    if not limits:
        return ""
    return f"limit {limits[0]}" if len(limits) == 1 else f"limit {limits[0]} to {limits[-1]}"


def spec_yaml(spec: PruneSpec) -> str:
    """The spec as a file that `secateur submit` takes."""
    text: str = yaml.safe_dump(
        {"spec": spec.model_dump(mode="json", exclude_none=True)}, sort_keys=False, allow_unicode=True
    )
    return text


def render_html(data: ReportData) -> str:
    """The page: one file, no request to anywhere, no script. Raises UnequalContracts."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("pipeline", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "bytes": human_bytes,
        "seconds": human_seconds,
        "perplexity": human_perplexity,
        "metric": human_metric,
        "figure": human_figure,
    }
    summary = summarise(data)
    return environment.get_template("report.html.j2").render(
        data=data,
        summary=summary,
        chart=block_chart(data.plan, data.sparsity, data.outliers),
        heatmap=heatmap(data.sparsity),
        slowest=max((s.measured.seconds for s in data.stages if not s.cached), default=0.0),
        spec_yaml=spec_yaml(data.spec),
        tiles=_tiles(summary.tasks),
        limits=limits_of(summary.tasks),
    )


@dataclass(frozen=True)
class HeatCell:
    """One linear of one block; `heat` in [0, 1] from the least to the most sparse one of the model."""

    linear: LinearSparsity
    heat: float


@dataclass(frozen=True)
class Heatmap:
    """Blocks × linears; a cell is None where a block has no such linear. `totals`: sparsity per column."""

    columns: tuple[str, ...]
    rows: tuple[tuple[int, tuple[HeatCell | None, ...]], ...]
    totals: tuple[float, ...]


def heatmap(table: SparsityTable) -> Heatmap:
    """The table of linears in block order, columns in order of first appearance."""
    columns = tuple(dict.fromkeys(linear.linear for linear in table.linears))
    by_place = {(linear.block, linear.linear): linear for linear in table.linears}
    low = min((linear.sparsity for linear in table.linears), default=0.0)
    span = max((linear.sparsity for linear in table.linears), default=0.0) - low

    def cell(block: int, column: str) -> HeatCell | None:
        linear = by_place.get((block, column))
        if linear is None:
            return None
        return HeatCell(linear, round((linear.sparsity - low) / span, 3) if span > 0 else 0.5)

    blocks = sorted({linear.block for linear in table.linears})
    return Heatmap(
        columns=columns,
        rows=tuple((block, tuple(cell(block, column) for column in columns)) for block in blocks),
        totals=tuple(_column_sparsity(table, column) for column in columns),
    )


def _tiles(tasks: Sequence[TaskComparison]) -> list[TaskComparison]:
    """What the head of the page shows: the suite's average, else the first task."""
    main = [task for task in tasks if task.main]
    return [task for task in main if task.metric == AVERAGE] or main[:1]


def _column_sparsity(table: SparsityTable, column: str) -> float:
    return SparsityTable(linears=tuple(x for x in table.linears if x.linear == column)).sparsity


def _deviation(plan: SparsityPlan, table: SparsityTable) -> Iterator[str]:
    difference = table.sparsity - plan.asked
    if abs(difference) > SPARSITY_TOLERANCE:
        yield (
            f"achieved sparsity {table.sparsity:.4f} is {abs(difference):.4f} "
            f"{'above' if difference > 0 else 'below'} the asked {plan.asked:g}"
        )
