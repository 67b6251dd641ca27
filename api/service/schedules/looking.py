"""One look at the prefix of a schedule: its checkpoints are recorded, and those that are ready may fire."""

import logging
from collections.abc import Iterable
from datetime import datetime, timedelta
from functools import partial
from typing import cast

from sqlalchemy import select
from sqlalchemy.orm import Session

from api.db.models import Firing, Schedule, Sighting
from api.service.context import Services
from api.service.schedules import firings
from api.service.schedules.present import definition_of
from api.service.schedules.request import OnNewCheckpoint, ScheduleRequest
from api.service.schedules.views import Cause
from pipeline.resolve.watching import Rules, Sight, State, candidates, natural_order
from pipeline.resolve.watching import look as look_at
from pipeline.sources.access import open_source
from pipeline.sources.tree import Directory, open_tree

log = logging.getLogger(__name__)
MAX_SOURCE = 1024


def is_due(schedule: Schedule, watch: OnNewCheckpoint, now: datetime) -> bool:
    """Tells whether it is time for another look."""
    return schedule.looked_at is None or now >= schedule.looked_at + timedelta(seconds=watch.look_seconds)


def look(services: Services, schedule: Schedule) -> None:
    """Look at everything below the prefix once. Without cron, each ready checkpoint gets a waiting firing.

    Nothing is written if the schedule was changed meanwhile. Raises InvalidRequest or StorageError when the
    prefix cannot be looked at.
    """
    definition = definition_of(schedule)
    watch = definition.on_new_checkpoint
    assert watch is not None, "only prefixes are looked at"
    now = services.now()
    directories = candidates(open_tree(watch.source, services.access).tree())
    sights = _sights(services, schedule, definition, watch, directories, now=now)
    with services.database.write() as session:
        current = firings.locked(session, schedule.id)
        if current is None or current.updated_at != schedule.updated_at:
            return
        rows = _store(session, current, sights, now=now)
        if current.looked_at is None and watch.existing == "ignore":
            for row in rows:
                firings.open_one(
                    session,
                    current,
                    cause="checkpoint",
                    at=now,
                    source=row.source,
                    digest=row.digest,
                    outcome="skipped",
                    reason="it lay there before the schedule first looked (existing: ignore)",
                )
        elif definition.cron is None and not current.paused:
            fire_ready(session, current, cause="checkpoint", now=now)
        mark_known(session, current)
        current.looked_at = now


def startable(session: Session, schedule: Schedule) -> list[Sighting]:
    """The complete checkpoints without a job, each digest once, in the order in which they arrived."""
    had = select(Firing.digest).where(Firing.schedule == schedule.id, Firing.job.is_not(None))
    known = set(session.scalars(had))
    found: dict[str, Sighting] = {}
    for row in _in_order(session, schedule):
        if row.digest is not None and row.digest not in known:
            found.setdefault(row.digest, row)
    return list(found.values())


def fire_ready(session: Session, schedule: Schedule, *, cause: Cause, now: datetime) -> None:
    """Open a waiting firing for every checkpoint that is ready and had none."""
    for row in _in_order(session, schedule):
        if row.state == "ready":
            firings.open_one(session, schedule, cause=cause, at=now, source=row.source, digest=row.digest)
            row.state, row.reason = "known", None


def forget(session: Session, schedule: Schedule, source: str) -> None:
    """Forget a checkpoint that has changed since it was seen, so that it settles again."""
    row = session.get(Sighting, (schedule.id, source))
    if row is not None:
        session.delete(row)


def _sights(
    services: Services,
    schedule: Schedule,
    definition: ScheduleRequest,
    watch: OnNewCheckpoint,
    directories: Iterable[Directory],
    *,
    now: datetime,
) -> dict[str, Sight]:
    with services.database.read() as session:
        rows = session.scalars(select(Sighting).where(Sighting.schedule == schedule.id))
        before = {row.source: _sight(row) for row in rows}
    rules = Rules(look_seconds=watch.look_seconds, ready_marker=watch.ready_marker)
    found = {}
    for directory in directories:
        if len(directory.uri) > MAX_SOURCE:
            log.warning(
                "schedule %s leaves out %.200s...: its path is too long", definition.name, directory.uri
            )
            continue
        found[directory.uri] = look_at(
            directory,
            partial(open_source, directory.uri, services.access),
            before=before.get(directory.uri),
            now=now,
            rules=rules,
            needs_tokenizer=definition.template.spec.needs_tokenizer,
        )
    return found


def _store(
    session: Session, schedule: Schedule, sights: dict[str, Sight], *, now: datetime
) -> list[Sighting]:
    """Store the checkpoints that were found, and delete the others. Returns the complete ones."""
    rows = {row.source: row for row in _in_order(session, schedule)}
    for source, row in rows.items():
        if source not in sights:
            session.delete(row)
    for source, sight in sights.items():
        row = rows.get(source) or Sighting(schedule=schedule.id, source=source)
        row.listing, row.digest, row.since = sight.listing, sight.digest, sight.since
        row.state, row.reason, row.seen_at = sight.state, sight.reason, now
        session.add(row)
    session.flush()
    return [row for row in _in_order(session, schedule) if row.digest is not None]


def mark_known(session: Session, schedule: Schedule) -> None:
    """Mark checkpoints that had their firing as known, and copies of them too."""
    known = set(session.scalars(select(Firing.digest).where(Firing.schedule == schedule.id)))
    for row in _in_order(session, schedule):
        if row.digest is not None and row.digest in known:
            row.state, row.reason = "known", None


def _in_order(session: Session, schedule: Schedule) -> list[Sighting]:
    rows = session.scalars(select(Sighting).where(Sighting.schedule == schedule.id))
    return sorted(rows, key=lambda row: (row.since, natural_order(row.source)))


def _sight(row: Sighting) -> Sight:
    state = cast(State, row.state)
    return Sight(listing=row.listing, state=state, since=row.since, digest=row.digest, reason=row.reason)
