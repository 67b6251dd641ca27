"""The page of a report: one self-contained HTML file."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass

import jinja2
import yaml

from pipeline.allocations import Candidate
from pipeline.artifacts.certificate import Certificate
from pipeline.artifacts.sparsity import LinearSparsity, SparsityTable
from pipeline.evaluation.comparison import AVERAGE, TaskComparison
from pipeline.job.ledger import NodeResult
from pipeline.report.block_chart import Chart, block_chart
from pipeline.report.curves import curve_chart, fit_chart
from pipeline.report.data import ReportData, limits_of, summarise
from pipeline.report.mask_overlap import agreement_page
from pipeline.report.masks import mask_page
from pipeline.report.panels import CurveChart
from pipeline.report.quantity import (
    human_bytes,
    human_count,
    human_figure,
    human_metric,
    human_perplexity,
    human_seconds,
    human_share,
)
from pipeline.report.summary import objective_of
from pipeline.report.sweep import SweepDocument, sweep_chart
from pipeline.request.prune_spec import PruneSpec
from pipeline.spec.source_fields import source_fields

MOMENTS = {
    "mask": "when the masks were made",
    "step": "in training: master weights, optimizer moments and working weights",
    "frozen": "of kept weights, beside those from before masks were learned: the same to the bit",
    "gather": "of the whole tensors, put together from all workers",
    "save": "of what training has stored",
    "reload": "of the stored checkpoint, read back",
    "published": "of the published files, read back with safetensors",
}


def spec_yaml(spec: PruneSpec) -> str:
    """The spec as a file that `secateur submit` takes."""
    text: str = yaml.safe_dump(
        {"spec": spec.model_dump(mode="json", exclude_none=True)}, sort_keys=False, allow_unicode=True
    )
    return text


def render_sweep(document: SweepDocument) -> str:
    """A sweep's page, as render_html's."""
    data = document.data
    return (
        _templates()
        .get_template("sweep.html.j2")
        .render(
            data=data,
            recipe=document.recipe,
            chart=sweep_chart(data.members),
            slowest=_slowest(data.stages),
            spec_yaml=spec_yaml(data.spec),
            member_yaml={
                member.number: yaml.safe_dump(
                    {"prune": member.prune.model_dump(mode="json", exclude_none=True)}, sort_keys=False
                )
                for member in data.members
            },
        )
    )


def render_html(data: ReportData) -> str:
    """The page: one file, no request to anywhere, no script. Raises UnequalContracts."""
    summary = summarise(data)
    recovery = data.spec.recovery
    return (
        _templates()
        .get_template("page.html.j2")
        .render(
            data=data,
            summary=summary,
            models=[name for name in ("dense", "pruned", "recovered") if getattr(data, name) is not None],
            chart=_block_chart(data),
            heatmap=None if data.sparsity is None else heatmap(data.sparsity),
            masks=mask_page(data.masks, data.spec),
            agreement=agreement_page(data.agreements, data.plan, data.sparsity),
            recovery=recovery,
            objective=None if recovery is None else objective_of(recovery),
            curves=_curves(data),
            fits=None if data.training is None else fit_chart(data.training.curve.blocks),
            pruned_fits=fit_chart(data.fits),
            deepspeed="" if data.training is None else json.dumps(data.training.curve.deepspeed, indent=2),
            checks=None if data.certificate is None else _checks(data.certificate),
            slowest=_slowest(data.stages),
            spec_yaml=spec_yaml(data.spec),
            tiles=_tiles(summary.tasks),
            limits=limits_of(summary.tasks),
            sources=[
                (field.path.removeprefix("spec.").removesuffix(".source"), data.pins.of(field.path))
                for field in source_fields(data.spec, "spec")
            ],
        )
    )


def _templates() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("pipeline.report", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "bytes": human_bytes,
        "count": human_count,
        "seconds": human_seconds,
        "perplexity": human_perplexity,
        "metric": human_metric,
        "figure": human_figure,
        "share": human_share,
        "parameters": _parameters,
    }
    return environment


def _slowest(stages: Sequence[NodeResult]) -> float:
    return max((stage.measured.seconds for stage in stages if not stage.cached), default=0.0)


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
    """The table of linears in block order, columns in order of first appearance; the experts of a block
    together, as there may be hundreds."""
    table = _experts_together(table)
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


def _experts_together(table: SparsityTable) -> SparsityTable:
    parts: dict[tuple[int, str], list[LinearSparsity]] = {}
    for linear in table.linears:
        name = re.sub(r"(?<=experts\.)\d+(?=\.)", "*", linear.linear)
        parts.setdefault((linear.block, name), []).append(linear)
    return SparsityTable(
        linears=tuple(
            LinearSparsity(
                block=block,
                linear=name,
                pruned=sum(one.pruned for one in found),
                zeros=sum(one.zeros for one in found),
                weights=sum(one.weights for one in found),
            )
            for (block, name), found in parts.items()
        )
    )


def _tiles(tasks: Sequence[TaskComparison]) -> list[TaskComparison]:
    """What the head of the page shows: the suite's average, else the first task."""
    main = [task for task in tasks if task.main]
    return [task for task in main if task.metric == AVERAGE] or main[:1]


def _column_sparsity(table: SparsityTable, column: str) -> float:
    return SparsityTable(linears=tuple(x for x in table.linears if x.linear == column)).sparsity


def _parameters(allocation: Candidate) -> str:
    """All but the kind."""
    named = allocation.model_dump(mode="json", exclude={"kind"})
    return ", ".join(f"{name} {json.dumps(value)}" for name, value in named.items()) or "–"


def _block_chart(data: ReportData) -> Chart | None:
    if data.sparsity is None:
        return None
    return block_chart(
        data.plan if data.keeps_plan else None, data.sparsity, data.measurements, asked=data.asked
    )


def _curves(data: ReportData) -> CurveChart | None:
    recovery = data.spec.recovery
    if data.training is None or recovery is None:
        return None
    return curve_chart(
        data.training,
        clipping=recovery.optimizer.gradient_clipping,
        distilled=recovery.objective.kind == "distillation",
    )


@dataclass(frozen=True)
class _Checks:
    """The checks of one moment. `steps`: the first and the last of those in training."""

    count: int
    words: str
    held: int
    steps: tuple[int, int] | None


def _checks(certificate: Certificate) -> list[_Checks]:
    found = []
    for moment, words in MOMENTS.items():
        checks = [check for check in certificate.checks if check.at == moment]
        steps = [check.step for check in checks if check.step is not None]
        if checks:
            span = (min(steps), max(steps)) if steps else None
            found.append(_Checks(count=len(checks), words=words, held=checks[-1].held, steps=span))
    return found
