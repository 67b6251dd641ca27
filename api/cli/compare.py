"""`secateur compare`: the results of jobs side by side."""

from typing import Annotated

import typer
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from api.cli.connect import Url, connect
from api.cli.view import out, say_json
from api.client.client import DEFAULT_URL
from api.service.jobs.views import ComparisonView
from pipeline.evaluation.job_comparison import ComparedFigure, FigureDifference
from pipeline.report.quantity import human_interval, human_metric, human_p, human_perplexity


def compare(
    jobs: Annotated[
        list[str], typer.Argument(metavar="JOB JOB...", help="Ids of two to eight finished jobs.")
    ],
    url: Url = DEFAULT_URL,
    every: Annotated[bool, typer.Option("--all", help="Show all metrics and members of groups.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Compare the results of jobs: differences to the first, with 95 % intervals and p-values, paired over
    the same documents."""
    with connect(url) as client:
        compared = client.compare(jobs)
    if as_json:
        say_json(compared)
    else:
        out().print(comparison_table(compared, every=every))


def comparison_table(compared: ComparisonView, *, every: bool) -> RenderableType:
    """The jobs by letter, their figures, and what a reader must know of them."""
    letters = [chr(ord("A") + i) for i in range(len(compared.jobs))]
    jobs = Table.grid(padding=(0, 2))
    for letter, job in zip(letters, compared.jobs, strict=True):
        jobs.add_row(letter, job.id, job.name or "", job.model, job.recipe, job.final)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("", "dense", *letters, *(f"{letter} - A" for letter in letters[1:])):
        table.add_column(name, justify="left" if not name else "right")
    for figure in compared.figures:
        if every or figure.main:
            shown = human_perplexity if figure.kind == "text" else human_metric
            table.add_row(
                Text(_title(figure)),
                "differs" if figure.dense is None else shown(figure.dense),
                *(shown(value) for value in figure.values),
                *(_difference(one) for one in figure.differences),
            )
    notes = [f"{job} has not recorded {', '.join(fields)}" for job, fields in compared.not_recorded.items()]
    if compared.left_out:
        notes.append(f"not evaluated by all: {', '.join(compared.left_out)}")
    return Group(jobs, Text(""), table, *(Text(note, style="dim") for note in notes))


def _title(figure: ComparedFigure) -> str:
    per = f", per {figure.per}" if figure.per == "byte" else ""
    chosen = f" ({figure.filter})" if figure.filter != "none" else ""
    return f"{figure.name}, {figure.metric}{chosen}{per}"


def _difference(one: FigureDifference) -> Text:
    if one.paired is None:
        return Text(f"{one.value:+.3g}")
    certain = f" ({human_interval(one.paired.low, one.paired.high)}, {human_p(one.paired.p_value)})"
    return Text(f"{one.value:+.3g}{certain}", style="bold" if one.paired.stands_out else "")
