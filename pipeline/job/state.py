"""JobState = fold(events): the one place where a job's status changes."""

from collections.abc import Iterable
from datetime import datetime
from typing import Literal

from pipeline.canonical import Frozen
from pipeline.job.events import Event, FailureReason

Status = Literal["queued", "running", "cancelling", "succeeded", "failed", "cancelled"]
TERMINAL: frozenset[Status] = frozenset({"succeeded", "failed", "cancelled"})
StageStatus = Literal["pending", "running", "cached", "succeeded", "failed"]


class StageState(Frozen):
    """The state of one node of the DAG, as the API shows it."""

    node: str
    stage: str
    needs: tuple[str, ...] = ()
    status: StageStatus = "pending"
    done: float = 0
    total: float = 0
    unit: str = ""
    started_at: datetime | None = None
    finished_at: datetime | None = None
    note: str | None = None


class JobState(Frozen):
    """The state of a job and of its stages."""

    status: Status = "queued"
    attempt: int = 0
    stages: tuple[StageState, ...] = ()
    error: FailureReason | None = None
    started_at: datetime | None = None
    finished_at: datetime | None = None

    @property
    def stage(self) -> str | None:
        """The nodes that run now, joined with ` + `."""
        running = [stage.node for stage in self.stages if stage.status == "running"]
        return " + ".join(running) or None

    @property
    def progress(self) -> float:
        """The share of the stages that are done, in [0, 1]. Running stages count by their own share."""
        if self.status == "succeeded":
            return 1.0
        if not self.stages:
            return 0.0
        shares = [
            1.0 if s.status in ("cached", "succeeded") else (s.done / s.total if s.total else 0.0)
            for s in self.stages
        ]
        return sum(shares) / len(shares)


def fold(events: Iterable[Event], state: JobState | None = None) -> JobState:
    """The state after `events` (in id order), starting from `state` or from nothing."""
    state = state or JobState()
    for event in events:
        state = step(state, event)
    return state


def step(state: JobState, event: Event) -> JobState:
    """The state after one more event. Nothing follows a terminal status but a retry (`job.queued`)."""
    body = event.body
    if state.status in TERMINAL and body.type != "job.queued":
        return state
    if event.attempt < state.attempt and not body.type.startswith("job."):
        return state  # a late event from an attempt that was given up
    match body.type:
        case "job.queued":
            return state.model_copy(update={"status": "queued", "finished_at": None, "error": None})
        case "job.cancel_requested":
            return state.model_copy(update={"status": "cancelling"})
        case "job.cancelled":
            return _ended(state, "cancelled", event)
        case "job.failed":
            return _ended(state, "failed", event, body.reason)
        case "job.succeeded":
            return _ended(state, "succeeded", event)
        case "attempt.submitted":
            return state.model_copy(update={"attempt": event.attempt})
        case "attempt.started":
            stages = tuple(StageState(node=n.node, stage=n.stage, needs=n.needs) for n in body.nodes)
            status: Status = "cancelling" if state.status == "cancelling" else "running"
            update = {"status": status, "attempt": event.attempt, "stages": stages}
            return state.model_copy(update={**update, "started_at": state.started_at or event.at})
        case "attempt.failed":
            return state.model_copy(update={"error": body.reason})
        case "stage.started":
            return _with_stage(state, body.node, status="running", started_at=event.at)
        case "stage.progress":
            return _with_stage(
                state, body.node, done=body.done, total=body.total, unit=body.unit, note=body.note
            )
        case "stage.retried":
            return _with_stage(state, body.node, status="running", note=body.reason.message)
        case "stage.finished":
            status_of_stage: StageStatus = "cached" if body.result.cached else "succeeded"
            return _with_stage(
                state, body.result.node, status=status_of_stage, finished_at=event.at, note=None
            )
        case "attempt.finished" | "training.step" | "training.validated" | "message":
            return state


def _ended(state: JobState, status: Status, event: Event, error: FailureReason | None = None) -> JobState:
    stages = tuple(
        stage.model_copy(update={"status": "failed"})
        if stage.status == "running" and status == "failed"
        else stage
        for stage in state.stages
    )
    return state.model_copy(
        update={"status": status, "finished_at": event.at, "stages": stages, "error": error}
    )


def _with_stage(state: JobState, node: str, **changes: object) -> JobState:
    stages = tuple(s.model_copy(update=changes) if s.node == node else s for s in state.stages)
    return state.model_copy(update={"stages": stages})
