"""Turns rows of schedules and firings into the models that users see."""

from collections.abc import Mapping, Sequence
from datetime import datetime

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from api.db.models import Firing, Schedule, Sighting
from api.service.schedules.outcomes import VERDICTS
from api.service.schedules.request import ScheduleRequest
from api.service.schedules.views import (
    CandidateView,
    Cause,
    FiringView,
    Outcome,
    ScheduleView,
    UnreadSchedule,
)
from api.service.stored import Unreadable, known_value, whole, word
from pipeline.report.gates import Verdict
from pipeline.resolve.watching import State, natural_order

MAX_CANDIDATES = 100
ORDER: Mapping[str, int] = {"ready": 0, "settling": 1, "incomplete": 2, "unusable": 3, "known": 4}


def definition_of(schedule: Schedule) -> ScheduleRequest:
    """The request of a schedule, with all changes since. Raises Unreadable."""
    stored = whole(ScheduleRequest, schedule.definition, f"schedule {schedule.name}")
    return stored.model_copy(update={"paused": schedule.paused})


def split(schedules: Sequence[Schedule]) -> tuple[list[Schedule], tuple[UnreadSchedule, ...]]:
    """Returns the schedules that this version understands, and why it does not understand the others."""
    understood, unread = [], []
    for schedule in schedules:
        try:
            definition_of(schedule)
        except Unreadable as error:
            unread.append(UnreadSchedule(id=schedule.id, name=schedule.name, why=error.message))
        else:
            understood.append(schedule)
    return understood, tuple(unread)


def schedule_views(session: Session, schedules: Sequence[Schedule]) -> tuple[ScheduleView, ...]:
    """Schedules as users see them, with two queries for any number of schedules. Raises Unreadable."""
    ids = [schedule.id for schedule in schedules]
    latest = select(func.max(Firing.id)).where(Firing.schedule.in_(ids)).group_by(Firing.schedule)
    last = {
        firing.schedule: firing for firing in session.scalars(select(Firing).where(Firing.id.in_(latest)))
    }
    seen: dict[str, list[Sighting]] = {}
    for sighting in session.scalars(select(Sighting).where(Sighting.schedule.in_(ids))):
        seen.setdefault(sighting.schedule, []).append(sighting)
    return tuple(_view(one, last.get(one.id), seen.get(one.id, [])) for one in schedules)


def firing_view(firing: Firing, schedule: str) -> FiringView:
    """A firing as users see it; `schedule` is the name."""
    return FiringView(
        id=firing.id,
        schedule=schedule,
        cause=word(firing.cause, Cause),
        at=int(firing.at.timestamp()),
        due_at=_whole(firing.due_at),
        source=firing.source,
        digest=firing.digest,
        job=firing.job,
        outcome=word(firing.outcome, Outcome),
        reason=firing.reason,
        gates=_verdicts(firing),
        decided_at=_whole(firing.decided_at),
    )


def _view(schedule: Schedule, last: Firing | None, seen: Sequence[Sighting]) -> ScheduleView:
    shown = sorted(seen, key=lambda one: natural_order(one.source), reverse=True)
    shown.sort(key=lambda one: ORDER.get(one.state, len(ORDER)))  # the newest of each state first
    definition = definition_of(schedule)
    return ScheduleView(
        **{name: getattr(definition, name) for name in ScheduleRequest.model_fields},
        id=schedule.id,
        created_at=int(schedule.created_at.timestamp()),
        updated_at=int(schedule.updated_at.timestamp()),
        next_at=_whole(schedule.next_at),
        looked_at=_whole(schedule.looked_at),
        error=schedule.error,
        last_firing=firing_view(last, definition.name) if last is not None else None,
        candidates=tuple(_candidate(sighting) for sighting in shown[:MAX_CANDIDATES]),
    )


def _candidate(sighting: Sighting) -> CandidateView:
    return CandidateView(
        source=sighting.source,
        state=word(sighting.state, State),
        since=int(sighting.since.timestamp()),
        reason=sighting.reason,
    )


def _verdicts(firing: Firing) -> tuple[Verdict, ...]:
    """What the gates said, or nothing if another version stored it in words of its own; `reason` of the
    firing has it in a sentence."""
    if firing.gates is None:
        return ()
    try:
        return known_value(VERDICTS, firing.gates, f"the gates of firing {firing.id}")
    except Unreadable:
        return ()


def _whole(moment: datetime | None) -> int | None:
    return int(moment.timestamp()) if moment is not None else None
