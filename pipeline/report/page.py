"""The page of a report: one self-contained HTML file."""

from collections.abc import Sequence

import jinja2
from markupsafe import Markup

from pipeline.report.data import ReportData
from pipeline.report.quantity import (
    human_bytes,
    human_figure,
    human_interval,
    human_metric,
    human_p,
    human_perplexity,
    human_seconds,
    human_share,
)
from pipeline.report.section import Section, Tile, sections_of
from pipeline.report.summary import summary_line
from pipeline.report.sweep import SweepDocument


def render_html(data: ReportData) -> str:
    """Render the page: one file without scripts that loads nothing else. Raises UnequalContracts."""
    tiles = [tile for section in sections_of(ReportData) for tile in section.tiles(data)]
    result_first = sorted(tiles, key=lambda tile: tile.work)
    return _page(data, recipe=summary_line(data.spec), tiles=result_first, notes=data.notes)


def render_sweep(document: SweepDocument) -> str:
    """Render the page of a sweep, as self-contained as the page of a job of one model."""
    return _page(document.data, recipe=document.recipe)


def _page(data: Section, *, recipe: str, tiles: Sequence[Tile] = (), notes: Sequence[str] = ()) -> str:
    templates = _templates()
    sections = [_shown(section, data, templates) for section in sections_of(type(data))]
    page = templates.get_template("page.html.j2")
    return page.render(
        data=data,
        recipe=recipe,
        tiles=tiles,
        notes=notes,
        sections=[section for section in sections if section is not None],
    )


def _shown(section: type[Section], data: Section, templates: jinja2.Environment) -> Markup | None:
    """Render a section as HTML; None where it has nothing to show."""
    view = section.view(data)
    if view is None:
        return None
    if section.template is None:
        name = section.__module__.rpartition(".")[-1]
        template = templates.get_template(f"sections/{name}.html.j2")
    else:
        template = templates.from_string(section.template)
    return Markup(template.render(data=data, headline=section.headline(data), **view).strip())


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
        "seconds": human_seconds,
        "perplexity": human_perplexity,
        "metric": human_metric,
        "figure": human_figure,
        "interval": human_interval,
        "p": human_p,
        "share": human_share,
    }
    return environment
