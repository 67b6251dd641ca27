"""The watch view shows a job's stages live on a terminal, or as plain lines if there is no terminal.

It reads events only, so it shows jobs of a service and runs without one alike.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Column, Table
from rich.text import Text

from api.cli.failure import blamed
from api.client.client import SecateurClient
from api.service.jobs.views import JobView
from pipeline.artifacts.curve import StepRecord
from pipeline.job.events import Event, FailureReason
from pipeline.job.state import JobState, StageState, StageStatus, step
from pipeline.report.quantity import human_seconds

LINE_EVERY_SECONDS = 10.0
REFRESH_PER_SECOND = 4
BAR_WIDTH = 24
WORDS: dict[StageStatus, tuple[str, str]] = {
    "pending": ("waits", "dim"),
    "running": ("runs", "bold cyan"),
    "cached": ("cached", "green"),
    "succeeded": ("done", "green"),
    "failed": ("failed", "bold red"),
}


@dataclass(frozen=True)
class Pace:
    """The speed of a stage, from the first progress that this attempt reported to the latest one."""

    first_done: float
    first_at: datetime
    done: float
    at: datetime
    total: float

    def after(self, done: float, total: float, at: datetime) -> "Pace":
        """The pace after one more report of progress. It begins anew if the stage fell back."""
        if done < self.done:
            return Pace(done, at, done, at, total)
        return Pace(self.first_done, self.first_at, done, at, total)

    @property
    def per_second(self) -> float | None:
        """The units per second; None before two different reports of progress."""
        seconds = (self.at - self.first_at).total_seconds()
        units = self.done - self.first_done
        return units / seconds if seconds > 0 and units > 0 else None

    def remaining(self, now: datetime) -> float | None:
        """The seconds to the end at this pace; None while the pace is unknown."""
        if self.per_second is None:
            return None
        return max((self.total - self.done) / self.per_second - (now - self.at).total_seconds(), 0.0)


@dataclass(frozen=True)
class Trained:
    """The figures of a training after the last reported step and at the last validation."""

    loss: float | None = None
    tokens_per_second: float | None = None
    perplexity: float | None = None

    def after(self, record: StepRecord) -> "Trained":
        """The figures after one more step."""
        return replace(self, loss=record.loss, tokens_per_second=record.tokens_per_second)

    def __str__(self) -> str:
        parts = [
            ("loss", self.loss, ".4f"),
            ("validation perplexity", self.perplexity, ".2f"),
            ("tokens/s", self.tokens_per_second, ",.0f"),
        ]
        return ", ".join(f"{name} {value:{how}}" for name, value, how in parts if value is not None)


class JobWatch:
    """The state, the paces and the training figures of a job, computed from its events."""

    def __init__(self, title: str) -> None:
        self.title = title
        self.state = JobState()
        self.away: str | None = None
        self._paces: dict[str, Pace] = {}
        self._said: dict[str, datetime] = {}
        self._trained: dict[str, Trained] = {}

    def see(self, event: Event) -> None:
        """Add one event."""
        before = self.state
        self.state = step(before, event)
        body = event.body
        if body.type == "attempt.started":
            self._paces.clear()
        elif body.type in ("stage.started", "stage.retried"):
            self._paces.pop(body.node, None)
        elif body.type == "training.step":
            self._trained[body.node] = self._training(body.node).after(body.record)
        elif body.type == "training.validated":
            self._trained[body.node] = replace(
                self._training(body.node), perplexity=body.validation.perplexity
            )
        elif body.type == "stage.progress" and self.state is not before:
            pace = self._paces.get(body.node)
            start = pace or Pace(body.done, event.at, body.done, event.at, body.total)
            self._paces[body.node] = start.after(body.done, body.total, event.at)

    def lines(self, event: Event) -> Iterable[str]:
        """The log lines for an event that `see` has added; of progress at most one every ten seconds."""
        clock = event.at.astimezone().strftime("%H:%M:%S")
        for text in self._words(event):
            yield f"{clock}  {text}"

    def _words(self, event: Event) -> Iterable[str]:
        body = event.body
        match body.type:
            case "stage.progress":
                said = self._said.get(body.node)
                if (
                    said is None
                    or body.done >= body.total
                    or ((event.at - said).total_seconds() >= LINE_EVERY_SECONDS)
                ):
                    self._said[body.node] = event.at
                    yield f"{body.node:<17} {self._progress(self._stage(body.node), event.at)}"
            case "training.validated":
                found = body.validation
                yield f"{body.node:<17} step {found.step}, perplexity {found.perplexity:.2f} on held-out text"
            case "stage.started":
                yield f"{body.node:<17} runs"
            case "stage.finished":
                how = (
                    "cached"
                    if body.result.cached
                    else f"done in {human_seconds(body.result.measured.seconds)}"
                )
                yield f"{body.result.node:<17} {how}"
            case "stage.retried":
                yield f"{body.node:<17} continues: {reason_text(body.reason)}"
            case "message":
                yield f"{body.node or 'job':<17} {body.level}: {body.text}"
            case "attempt.started":
                yield f"attempt {event.attempt} runs"
            case "attempt.failed":
                yield f"attempt {event.attempt} failed: {reason_text(body.reason)}"
            case "job.failed":
                yield f"job failed: {reason_text(body.reason)}"
            case "job.queued" | "job.cancel_requested" | "job.cancelled" | "job.succeeded":
                yield f"job {body.type.removeprefix('job.').replace('_', ' ')}"
            case _:  # shown elsewhere, or a new type of a later service
                return

    def __rich__(self) -> RenderableType:
        now = datetime.now(UTC)
        head = Text.assemble((self.title, "bold"), "  ", self.state.status, f"  {self.state.progress:.0%}")
        if self.state.attempt > 1:
            head.append(f"  attempt {self.state.attempt}", style="yellow")
        if self.away is not None:
            head.append(f"  the service is away, trying again ({self.away})", style="yellow")
        table = Table.grid(
            Column(no_wrap=True, min_width=6),
            Column(no_wrap=True, min_width=16),
            Column(min_width=BAR_WIDTH),
            Column(no_wrap=True, overflow="ellipsis"),
            padding=(0, 2),
        )
        for stage in self.state.stages:
            word, style = WORDS[stage.status]
            bar: RenderableType = ""
            if stage.status == "running" and stage.total > 0:
                bar = ProgressBar(total=stage.total, completed=stage.done, width=BAR_WIDTH)
            table.add_row(
                Text(word, style=style), Text(stage.node), bar, Text(self._figures(stage, now), style="dim")
            )
        return Group(head, table)

    def _figures(self, stage: StageState, now: datetime) -> str:
        if stage.status == "running":
            elapsed = human_seconds(_between(stage.started_at, now))
            return f"{self._progress(stage, now)}  {elapsed} so far" if stage.total else elapsed
        if stage.status == "succeeded" and stage.started_at is not None:
            return human_seconds(_between(stage.started_at, stage.finished_at or now))
        return ""

    def _progress(self, stage: StageState, now: datetime) -> str:
        parts = [f"{stage.done:g}/{stage.total:g} {stage.unit}"]
        pace = self._paces.get(stage.node)
        if pace is not None and pace.per_second is not None:
            parts.append(_rate(pace.per_second, stage.unit))
            remaining = pace.remaining(now)
            if remaining is not None and stage.done < stage.total:
                parts.append(f"{human_seconds(remaining)} left")
        trained = self._trained.get(stage.node)
        if trained is not None:
            parts.append(str(trained))
        elif stage.note:
            parts.append(stage.note)
        return ", ".join(parts)

    def _training(self, node: str) -> "Trained":
        return self._trained.get(node, Trained())

    def _stage(self, node: str) -> StageState:
        known = [stage for stage in self.state.stages if stage.node == node]
        return known[0] if known else StageState(node=node, stage=node)


def watch(events: Iterable[Event], view: JobWatch, console: Console) -> JobState:
    """Show events until they end, and return the state after the last one."""
    if not console.is_terminal:
        for event in events:
            view.see(event)
            for line in view.lines(event):
                console.print(Text(line), soft_wrap=True)
        return view.state
    with Live(view, console=console, refresh_per_second=REFRESH_PER_SECOND):
        for event in events:
            view.see(event)
            if event.body.type in ("message", "stage.retried", "attempt.failed"):
                for line in view.lines(event):
                    console.print(Text(line, style="yellow"))
    return view.state


def follow_job(client: SecateurClient, job_id: str, console: Console) -> JobView:
    """Watch a job of the service until it ends, and return it."""
    view = JobWatch(job_id)

    def away(why: str | None) -> None:
        if not console.is_terminal and (why is None) != (view.away is None):
            console.print(
                "the service is back" if why is None else f"the service is away, trying again: {why}"
            )
        view.away = why

    watch(client.follow(job_id, away=away), view, console)
    return client.job(job_id)


def reason_text(reason: FailureReason) -> str:
    """A failure as one sentence, with its class, the field and the node."""
    where = f" (at {reason.node})" if reason.node else ""
    field = f" ({reason.param})" if reason.param else ""
    return f"{blamed(reason.message, reason.blame)}{field}{where}"


def _rate(per_second: float, unit: str) -> str:
    if per_second >= 1:
        return f"{per_second:.1f} {unit}/s"
    return f"{human_seconds(1 / per_second)}/{unit}"


def _between(start: datetime | None, end: datetime) -> float:
    return max((end - start).total_seconds(), 0.0) if start is not None else 0.0
