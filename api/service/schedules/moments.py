"""Moments of cron: a due moment gets its firing, and a missed one is handled by the schedule's policy."""

from datetime import datetime, timedelta

from api.db.models import Schedule
from api.service.context import Services
from api.service.schedules import firings, looking
from api.service.schedules.present import definition_of
from api.service.schedules.request import ScheduleRequest
from pipeline.cron import Cron, latest_moment, next_moment

GRACE = timedelta(minutes=5)  # an older moment was missed, because no service ran


def next_of(definition: ScheduleRequest, *, now: datetime) -> datetime | None:
    """The next moment of cron; None without cron, and while the schedule is paused."""
    cron = definition.cron
    if cron is None or definition.paused:
        return None
    return next_moment(cron.expression, cron.timezone, now)


def is_due(schedule: Schedule, now: datetime) -> bool:
    """Tells whether a moment of cron has come."""
    return not schedule.paused and schedule.next_at is not None and schedule.next_at <= now


def fire_due(services: Services, schedule_id: str) -> None:
    """Open a firing if cron is due. Of all moments that have passed, only the latest fires.

    With a watched prefix, every ready checkpoint fires; without ready checkpoints, no firing is stored.
    """
    now = services.now()
    with services.database.write() as session:
        schedule = firings.locked(session, schedule_id)
        if schedule is None or not is_due(schedule, now):
            return  # another process was faster
        definition = definition_of(schedule)
        cron, due, model = definition.cron, schedule.next_at, definition.template.spec.model
        assert cron is not None, "what has a next moment has cron"
        assert due is not None, "is_due has seen it"
        latest = _latest(cron, due=due, now=now)
        schedule.next_at = next_of(definition, now=now)
        late = now - latest > GRACE
        source = model.source if model is not None else None
        if late and definition.missed == "skip":
            firings.open_one(
                session,
                schedule,
                cause="cron",
                at=now,
                due_at=latest,
                source=source,
                outcome="missed",
                reason=f"no service ran{_since(due, latest)} (missed: skip)",
            )
            services.metrics.fired("missed")
        elif source is None:
            looking.fire_ready(session, schedule, cause="cron", now=now)
        else:
            reason = f"no service ran then{_since(due, latest)}; made up for" if late else None
            firings.open_one(
                session, schedule, cause="cron", at=now, due_at=latest, source=source, reason=reason
            )


def _latest(cron: Cron, *, due: datetime, now: datetime) -> datetime:
    after = next_moment(cron.expression, cron.timezone, due)
    if after is None or after > now:
        return due
    latest = latest_moment(cron.expression, cron.timezone, until=now)
    return due if latest is None else max(due, latest)


def _since(due: datetime, latest: datetime) -> str:
    return f", nor at the moments before it since {due:%Y-%m-%d %H:%M} UTC" if latest > due else ""
