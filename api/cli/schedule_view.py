"""Tables of schedules, firings and aliases, as the CLI prints them."""

from collections.abc import Iterable
from datetime import UTC, datetime

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from api.service.schedules.views import AliasView, CandidateView, FiringView, ScheduleView

OUTCOME_STYLE: dict[str, str] = {
    "waiting": "dim",
    "running": "cyan",
    "promoted": "green",
    "passed": "green",
    "held": "yellow",
    "failed": "red",
    "cancelled": "yellow",
    "skipped": "dim",
    "missed": "dim",
}
STATE_STYLE: dict[str, str] = {
    "ready": "green",
    "settling": "cyan",
    "incomplete": "yellow",
    "unusable": "red",
    "known": "dim",
}


def schedules_table(schedules: Iterable[ScheduleView]) -> Table:
    """A table of schedules, in the order of the service, newest first."""
    table = _table("name", "fires", "next", "last", "alias", "error")
    for schedule in schedules:
        last = schedule.last_firing
        table.add_row(
            Text(schedule.name, no_wrap=True),
            Text(_fires(schedule)),
            Text("paused" if schedule.paused else _clock(schedule.next_at)),
            Text(last.outcome, style=OUTCOME_STYLE.get(last.outcome, "")) if last is not None else Text(""),
            Text(schedule.alias or ""),
            Text(schedule.error or "", style="red"),
        )
    return table


def schedule_details(schedule: ScheduleView) -> RenderableType:
    """One schedule, with the checkpoints that its last look found."""
    facts = Table.grid(padding=(0, 2))
    facts.add_column(style="dim")
    facts.add_column(overflow="fold")
    rows = [
        ("id", schedule.id),
        ("fires", _fires(schedule)),
        ("next", "paused" if schedule.paused else _clock(schedule.next_at)),
        ("looked", _clock(schedule.looked_at)),
        *(("gate", gate) for gate in schedule.gates),
        ("alias", schedule.alias or ""),
        ("policies", f"missed: {schedule.missed}, overlap: {schedule.overlap}"),
        ("error", schedule.error or ""),
    ]
    for name, value in rows:
        if value:
            facts.add_row(Text(name), Text(value, style="red" if name == "error" else ""))
    shown: list[RenderableType] = [Text(schedule.name, style="bold"), facts]
    if schedule.candidates:
        shown += [Text(""), candidates_table(schedule.candidates)]
    if schedule.last_firing is not None:
        shown += [Text(""), firings_table([schedule.last_firing])]
    return Group(*shown)


def candidates_table(candidates: Iterable[CandidateView]) -> Table:
    """A table of the checkpoints below a prefix."""
    table = _table("checkpoint", "state", "since", "reason")
    for one in candidates:
        state = Text(one.state, style=STATE_STYLE.get(one.state, ""))
        table.add_row(Text(one.source), state, Text(_clock(one.since), no_wrap=True), Text(one.reason or ""))
    return table


def firings_table(firings: Iterable[FiringView]) -> Table:
    """A table of firings, in the order of the service, newest first."""
    table = _table("fired", "cause", "outcome", "job", "source", "reason")
    for firing in firings:
        table.add_row(
            Text(_clock(firing.at), no_wrap=True),
            Text(firing.cause),
            Text(firing.outcome, style=OUTCOME_STYLE.get(firing.outcome, "")),
            Text(firing.job or "", no_wrap=True),
            Text(firing.source or ""),
            Text(firing.reason or "; ".join(verdict.reason for verdict in firing.gates)),
        )
    return table


def aliases_table(aliases: Iterable[AliasView]) -> Table:
    """A table of aliases, in the order of the service, by name."""
    table = _table("alias", "checkpoint", "job", "moved", "by")
    for alias in aliases:
        table.add_row(
            Text(alias.name, no_wrap=True),
            Text(alias.prefix),
            Text(alias.job, no_wrap=True),
            Text(_clock(alias.moved_at), no_wrap=True),
            Text(alias.moved_by),
        )
    return table


def _fires(schedule: ScheduleView) -> str:
    cron, watch = schedule.cron, schedule.on_new_checkpoint
    return " and ".join(
        [
            *([f"{cron.expression} {cron.timezone}"] if cron is not None else []),
            *([f"new below {watch.source}"] if watch is not None else []),
        ]
    )


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in columns:
        table.add_column(name, overflow="fold")
    return table


def _clock(moment: int | None) -> str:
    if moment is None:
        return ""
    return datetime.fromtimestamp(moment, UTC).astimezone().strftime("%Y-%m-%d %H:%M")
