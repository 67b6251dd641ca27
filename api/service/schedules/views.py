"""Schedules, their firings and aliases as users see them."""

from typing import Literal

from pydantic import Field

from api.service.schedules.request import ScheduleRequest
from pipeline.canonical import Frozen
from pipeline.report.gates import Verdict
from pipeline.resolve.watching import State

Cause = Literal["cron", "checkpoint", "manual"]
Outcome = Literal[
    "waiting", "running", "promoted", "held", "failed", "cancelled", "skipped", "missed", "passed"
]


class FiringView(Frozen):
    """One firing of a schedule. Times are Unix seconds; `due_at` is the moment of cron.

    waiting: its sources do not answer yet. running: its job has not ended. promoted: its result passed and
    the alias was moved to it. passed: its result passed, but the schedule has no alias. held: its result is
    not promoted, and `reason` says why. skipped, missed: no job was made, by the schedule's policies.
    """

    id: int
    object: Literal["firing"] = "firing"
    schedule: str = Field(description="Name of the schedule.")
    cause: Cause | Literal["unknown"]
    at: int
    due_at: int | None
    source: str | None
    digest: str | None
    job: str | None
    outcome: Outcome | Literal["unknown"]
    reason: str | None
    gates: tuple[Verdict, ...]
    decided_at: int | None


class FiringList(Frozen):
    """A page of firings, newest first. `next` is the `after` of the next page."""

    object: Literal["list"] = "list"
    data: tuple[FiringView, ...]
    has_more: bool
    next: int | None


class CandidateView(Frozen):
    """A checkpoint below the prefix of a schedule. `since` is in Unix seconds.

    incomplete: files are missing. unusable: it cannot be pruned. settling: it is complete, and is looked at
    again before it is taken. ready: it is taken now, or at cron's next moment. known: it had its firing.
    """

    source: str
    state: State | Literal["unknown"]
    since: int
    reason: str | None


class ScheduleView(ScheduleRequest):
    """A schedule. Times are Unix seconds. `error` says why it does not work now; it is tried again."""

    id: str
    object: Literal["schedule"] = "schedule"
    created_at: int
    updated_at: int
    next_at: int | None
    looked_at: int | None
    error: str | None
    last_firing: FiringView | None
    candidates: tuple[CandidateView, ...] = Field(
        description="At most 100 checkpoints that the last look found; those without a firing come first."
    )


class UnreadSchedule(Frozen):
    """A schedule that another version of Secateur stored and this one does not understand. It waits for a
    process of that version. `why` names the first field."""

    id: str
    name: str
    why: str


class ScheduleList(Frozen):
    """A page of schedules, newest first. `next` is the `after` of the next page."""

    object: Literal["list"] = "list"
    data: tuple[ScheduleView, ...]
    unread: tuple[UnreadSchedule, ...] = ()
    has_more: bool
    next: str | None


class AliasView(Frozen):
    """A name that points at a published checkpoint; the storage has the same at `aliases/<name>.json`.

    Its files are below `prefix` in the storage; `manifest` is the SHA-256 of their `manifest.json`.
    `moved_by` is the schedule that moved it last, at `moved_at`, in Unix seconds.
    """

    name: str
    object: Literal["alias"] = "alias"
    job: str
    prefix: str
    manifest: str
    moved_at: int
    moved_by: str


class AliasList(Frozen):
    """All aliases by name."""

    object: Literal["list"] = "list"
    data: tuple[AliasView, ...]
    has_more: bool = False
    next: None = None
