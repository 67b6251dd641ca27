"""The output of the CLI: tables of jobs and plans, the result of a job, and errors."""

import json
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime

from pydantic import BaseModel
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from api.cli.failure import whose
from api.service.jobs.views import JobView, PlanView
from pipeline.evaluation.task_comparison import limits_of
from pipeline.report.data import Summary
from pipeline.report.figures.training import TrainingSummary
from pipeline.report.quantity import (
    human_bytes,
    human_count,
    human_metric,
    human_perplexity,
    human_seconds,
    human_share,
)
from pipeline.report.summary import summary_line
from pipeline.report.sweep import SweepDocument

STATUS_STYLE: dict[str, str] = {
    "queued": "dim",
    "running": "cyan",
    "cancelling": "yellow",
    "succeeded": "green",
    "failed": "red",
    "cancelled": "yellow",
    "unknown": "yellow",
}


def out() -> Console:
    """Standard output, as wide as the terminal, or with long lines if it is none."""
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=200)


def say_error(message: str, param: str | None = None) -> None:
    """Print an error as one red line on standard error."""
    field = f" ({param})" if param and param not in message else ""
    Console(stderr=True, highlight=False).print(Text(f"error: {message}{field}", style="red"), soft_wrap=True)


def say_json(value: BaseModel | Sequence[BaseModel]) -> None:
    """Print models as JSON, for programs."""
    plain = (
        value.model_dump(mode="json")
        if isinstance(value, BaseModel)
        else [one.model_dump(mode="json") for one in value]
    )
    Console(highlight=False).out(json.dumps(plain, indent=2, ensure_ascii=False))


def jobs_table(jobs: Iterable[JobView]) -> Table:
    """A table of jobs, in the order of the service, newest first."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("id", "status", "progress", "model", "recipe", "name", "created"):
        table.add_column(name, overflow="fold", justify="right" if name == "progress" else "left")
    for job in jobs:
        table.add_row(
            Text(job.id, no_wrap=True),
            Text(job.status, style=STATUS_STYLE[job.status]),
            Text(f"{job.progress:.0%}"),
            Text(job.model),
            Text(summary_line(job.spec) if job.spec is not None else ""),
            Text(job.name or ""),
            Text(_clock(job.created_at), no_wrap=True),
        )
    return table


def job_details(job: JobView, url: str) -> RenderableType:
    """One job with its stages."""
    facts = _pairs(
        [
            ("status", f"{job.status}, {job.progress:.0%}, attempt {job.attempt}"),
            ("model", job.model),
            ("name", job.name or ""),
            ("labels", ", ".join(f"{key}:{value}" for key, value in job.labels.items())),
            ("created", _clock(job.created_at)),
            ("took", _took(job)),
            ("unread", job.unread or ""),
            ("error", job.error.message if job.error else ""),
            ("whose", whose(job.error.blame) if job.error else ""),
            ("where", (job.error.node or "") if job.error else ""),
            ("page", f"{url}{job.links.self}"),
            ("report", f"{url}{job.links.report}" if job.status == "succeeded" else ""),
        ]
    )
    stages = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("stage", "status", "done", "took", "note"):
        stages.add_column(name)
    for stage in job.stages:
        took = (stage.finished_at or 0) - (stage.started_at or 0)
        stages.add_row(
            Text(stage.node),
            Text(stage.status),
            Text(f"{stage.done:g}/{stage.total:g} {stage.unit}" if stage.total else ""),
            Text(human_seconds(took) if stage.finished_at and stage.started_at else ""),
            Text(stage.note or ""),
        )
    shown: list[RenderableType] = [Text(""), stages] if job.stages else []
    return Group(Text(job.id, style="bold"), facts, *shown)


def plan_view(planned: PlanView) -> RenderableType:
    """The stages of a plan with the time that they are expected to take, its inputs and its warnings."""
    expected = {one.node: human_seconds(one.seconds) for one in planned.estimates if one.seconds is not None}
    nodes = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("stage", "state", "expected", "needs", "key"):
        nodes.add_column(name, justify="right" if name == "expected" else "left")
    for node in planned.nodes:
        nodes.add_row(
            Text(node.node),
            Text("cached", style="green") if node.cached else Text("runs"),
            Text("" if node.cached else expected.get(node.node, "")),
            Text(", ".join(node.needs)),
            Text(node.key[:12] if node.key else ""),
        )
    inputs = _pairs(
        (given.param, f"{given.source}, {human_bytes(given.size)} in {given.files} files")
        for given in planned.inputs
    )
    serving = [Text(line) for one in planned.serving for line in one.lines]
    warnings = [Text(f"warning: {warning}", style="yellow") for warning in planned.warnings]
    return Group(nodes, Text(""), inputs, *serving, *warnings)


def sweep_table(document: SweepDocument, *, seconds: float | None, report: str) -> RenderableType:
    """A table of a sweep's members. Bold ones have no other that is as sparse and as good."""
    data = document.data
    texts = [text.title for text in data.members[0].perplexity]
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("#", "member", "sparsity", *texts, "masks in"):
        table.add_column(name, justify="left" if name == "member" else "right")
    table.add_row("", "dense", "0", *(human_perplexity(one.dense) for one in data.members[0].perplexity))
    for member in data.members:
        figures = [human_perplexity(text.final) for text in member.perplexity]
        table.add_row(
            str(member.number),
            Text(member.title),
            f"{member.sparsity:.4f}",
            *figures,
            human_seconds(member.seconds),
            style="bold" if member.best else "",
        )
    took = [("time", human_seconds(seconds))] if seconds is not None else []
    title = Text.assemble((data.model_name, "bold"), f"  {document.recipe}")
    return Group(Text(""), title, table, _pairs([*took, ("report", report)]))


def final_table(
    summary: Summary, *, seconds: float | None = None, checkpoint: str, report: str = ""
) -> RenderableType:
    """The result of a job. `seconds` is the time from start to end, if known; `checkpoint` and `report` are
    places."""
    title = Text.assemble((summary.model, "bold"), f"  {summary.recipe}")
    models = _models(summary)
    perplexity = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("perplexity", *models, "ratio", *(["won back"] if len(models) == 3 else [])):
        perplexity.add_column(name, justify="left" if name == "perplexity" else "right")
    for text in summary.perplexity:
        shares = [] if text.recovered_share is None else [human_share(text.recovered_share)]
        figures = [
            human_perplexity(value)
            for value in (text.dense, text.pruned, text.recovered)
            if value is not None
        ]
        perplexity.add_row(Text(text.title), *figures, f"{text.ratio:.3f}", *shares)
    main = [task for task in summary.tasks if task.main]
    tasks = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("task", "metric", "few-shot", *models, "difference"):
        tasks.add_column(name, justify="left" if name in ("task", "metric") else "right")
    for task in main:
        pairs = [
            (task.dense, task.dense_stderr),
            (task.pruned, task.pruned_stderr),
            (task.recovered, task.recovered_stderr),
        ]
        tasks.add_row(
            Text(task.task),
            Text(task.metric),
            "" if task.num_fewshot is None else str(task.num_fewshot),
            *(_with_stderr(value, stderr) for value, stderr in pairs if value is not None),
            Text(human_metric(task.difference, sign=True), style="bold" if task.stands_out else ""),
        )
    peak = "" if summary.peak_memory_bytes is None else human_bytes(summary.peak_memory_bytes)
    facts = _pairs(
        [
            ("sparsity", _sparsity(summary)),
            ("masks learned", _learned(summary)),
            ("groups masked as in", _cross_checks(summary)),
            ("training", _training(summary.training)),
            ("time", human_seconds(summary.seconds if seconds is None else seconds)),
            ("stages", f"{summary.stages}, {summary.cached_stages} of them from the cache"),
            ("peak memory", peak),
            ("verified", summary.verified or ""),
            ("reproduction", summary.reproduction or ""),
            *(("note", note) for note in summary.notes),
            ("checkpoint", checkpoint),
            ("report", report),
        ]
    )
    shown: list[RenderableType] = [perplexity] if summary.perplexity else []
    if main:
        shown.append(tasks)
    if limits := limits_of(main):
        shown.append(Text(f"{limits}: not comparable with published figures", style="dim"))
    return Group(Text(""), title, *shown, facts)


def _models(summary: Summary) -> list[str]:
    """The names of the models that are compared."""
    rows = [*summary.perplexity, *summary.tasks]
    known = [name for name in ("pruned", "recovered") if any(getattr(row, name) is not None for row in rows)]
    return ["dense", *known]


def _sparsity(summary: Summary) -> str:
    if summary.achieved_sparsity is None:
        return ""
    asked = "" if summary.asked_sparsity is None else f" (asked {summary.asked_sparsity:g})"
    held = "" if not summary.checks else f", held at all {summary.checks} checks"
    return f"{summary.achieved_sparsity:.4f}{asked}{held}"


def _learned(summary: Summary) -> str:
    learned = summary.masks
    parts = [_training(learned)]
    if learned is not None and learned.changed is not None:
        parts.append(f"{100 * learned.changed:.1f} % of the groups changed")
    return ", ".join(parts)


def _cross_checks(summary: Summary) -> str:
    return ", ".join(f"{other} {100 * share:.1f} %" for other, share in summary.agreement.items())


def _training(trained: TrainingSummary | None) -> str:
    if trained is None:
        return ""
    words = f"{trained.steps} of {trained.total_steps} steps, {human_count(trained.tokens)} tokens"
    if trained.perplexity_before is None or trained.perplexity_after is None:
        return words
    before, after = human_perplexity(trained.perplexity_before), human_perplexity(trained.perplexity_after)
    return f"{words}, held-out perplexity {before} → {after}"


def took_seconds(job: JobView) -> float | None:
    """The seconds from the start of the first attempt to the end."""
    if job.started_at is None or job.finished_at is None:
        return None
    return job.finished_at - job.started_at


def _with_stderr(value: float, stderr: float | None) -> str:
    return human_metric(value) if stderr is None else f"{human_metric(value)} ± {human_metric(stderr)}"


def _pairs(rows: Iterable[tuple[str, str]]) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim")
    table.add_column(overflow="fold")
    for name, value in rows:
        if value:
            table.add_row(Text(name), Text(value))
    return table


def _took(job: JobView) -> str:
    seconds = took_seconds(job)
    return "" if seconds is None else human_seconds(seconds)


def _clock(moment: int) -> str:
    return datetime.fromtimestamp(moment, UTC).astimezone().strftime("%Y-%m-%d %H:%M")
