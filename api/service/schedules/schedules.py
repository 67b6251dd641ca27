"""Functions that make, find, change, pause and delete schedules, and that run one now."""

from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn
from urllib.parse import unquote

from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError
from sqlalchemy import delete, or_, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from api.db.models import Firing, Schedule, Sighting
from api.errors import ApiError
from api.service.context import Services
from api.service.ids import new_id
from api.service.schedules import firings, looking
from api.service.schedules.moments import next_of
from api.service.schedules.present import definition_of, firing_view, schedule_views, split
from api.service.schedules.request import SchedulePatch, ScheduleRequest, check
from api.service.schedules.views import FiringView, Outcome, ScheduleList, ScheduleView
from pipeline.errors import InvalidRequest, InvalidSpec, SourceUnreachable
from pipeline.request.hints import suggestion
from pipeline.sources.tree import open_tree
from pipeline.spec.uri import Uri, parse_uri

WATCHED = "on_new_checkpoint.source"


def create(services: Services, request: ScheduleRequest) -> ScheduleView:
    """Store a schedule; it is active from the scheduler's next round on.

    Raises InvalidSpec that names the field, and ApiError 409 when the name is taken.
    """
    _check(services, request)
    now = services.now()
    schedule = Schedule(
        id=new_id("sched"),
        name=request.name,
        created_at=now,
        updated_at=now,
        definition=request.model_dump_json(),
        paused=request.paused,
        next_at=next_of(request, now=now),
    )
    try:
        with services.database.write() as session:
            session.add(schedule)
    except IntegrityError:
        _taken(request.name)
    services.wake_scheduler.set()
    return view(services, schedule.id)


def view(services: Services, key: str) -> ScheduleView:
    """One schedule, by id or name. Raises ApiError 404 that suggests a similar name."""
    with services.database.read() as session:
        return schedule_views(session, [_found(session, key)])[0]


def page(services: Services, *, paused: bool | None, after: str | None, limit: int) -> ScheduleList:
    """Returns schedules older than the schedule `after`, newest first."""
    query = select(Schedule).order_by(Schedule.id.desc()).limit(limit + 1)
    if after is not None:
        query = query.where(Schedule.id < after)
    if paused is not None:
        query = query.where(Schedule.paused == paused)
    with services.database.read() as session:
        rows = session.scalars(query).all()
        understood, unread = split(rows[:limit])
        more = len(rows) > limit
        return ScheduleList(
            data=schedule_views(session, understood),
            unread=unread,
            has_more=more,
            next=rows[limit - 1].id if more else None,
        )


def change(services: Services, key: str, patch: SchedulePatch) -> ScheduleView:
    """Replace the given fields, and check the result like a new schedule.

    Checkpoints that had their firing stay known. Raises the errors of `create`, and ApiError 404.
    """
    given = patch.model_dump(mode="json", include=patch.model_fields_set)
    while True:
        with services.database.read() as session:
            seen = _found(session, key)
        after = _validated(definition_of(seen).model_dump(mode="json") | given)
        _check(services, after)  # it may ask a slow bucket, so no transaction is open
        try:
            with services.database.write() as session:
                schedule = _found(session, seen.id, lock=True)
                if schedule.updated_at != seen.updated_at:
                    continue  # somebody else has changed it meanwhile
                _replace(services, session, schedule, before=definition_of(schedule), after=after)
        except IntegrityError:
            _taken(str(given.get("name")))
        services.wake_scheduler.set()
        return view(services, schedule.id)


def pause(services: Services, key: str, *, paused: bool) -> ScheduleView:
    """Pause or resume. Moments of cron in a pause are not made up for. Raises ApiError 404."""
    return change(services, key, SchedulePatch(paused=paused))


def remove(services: Services, key: str) -> None:
    """Delete a schedule with its history; its jobs and its alias stay. Raises ApiError 404."""
    with services.database.write() as session:
        session.delete(_found(session, key, lock=True))


def history(
    services: Services, key: str, *, outcome: Outcome | None, after: int | None, limit: int
) -> tuple[tuple[FiringView, ...], bool]:
    """Returns firings older than the firing `after`, newest first, and whether there are more.

    Raises ApiError 404.
    """
    with services.database.read() as session:
        schedule = _found(session, key)
        query = select(Firing).where(Firing.schedule == schedule.id)
        if after is not None:
            query = query.where(Firing.id < after)
        if outcome is not None:
            query = query.where(Firing.outcome == outcome)
        rows = session.scalars(query.order_by(Firing.id.desc()).limit(limit + 1)).all()
        return tuple(firing_view(row, schedule.name) for row in rows[:limit]), len(rows) > limit


def run_now(services: Services, key: str) -> tuple[FiringView, ...]:
    """Fire at a user's request, for cron's model or for every complete checkpoint without a job, without
    waiting for a second look or a marker. A checkpoint that cannot be pruned becomes a failed firing.

    Raises ApiError 404, and InvalidRequest or StorageError when a source is wrong.
    """
    with services.database.read() as session:
        schedule = _found(session, key)
    definition = definition_of(schedule)
    model = definition.template.spec.model
    if model is not None:
        try:
            prepared = firings.prepare(services, definition, source=model.source, watched=False)
        except InvalidRequest as error:
            error.param = f"template.{error.param}" if error.param else None
            raise
        alone = _run_one(services, schedule, definition, model.source, prepared)
        return (alone,) if alone is not None else ()
    try:
        looking.look(services, schedule)
    except InvalidRequest as error:
        error.param = WATCHED
        raise
    with services.database.read() as session:
        found = looking.startable(session, schedule)
    made = []
    for sighting in found:
        outcome: firings.Prepared | InvalidRequest
        try:
            outcome = firings.prepare(services, definition, source=sighting.source, watched=True)
        except SourceUnreachable:
            raise
        except InvalidRequest as error:
            outcome = error
        digest = sighting.digest
        made.append(_run_one(services, schedule, definition, sighting.source, outcome, digest=digest))
    return tuple(one for one in made if one is not None)


def _run_one(
    services: Services,
    schedule: Schedule,
    definition: ScheduleRequest,
    source: str,
    outcome: firings.Prepared | InvalidRequest,
    *,
    digest: str | None = None,
) -> FiringView | None:
    """Returns the firing; None when another process was faster, or the checkpoint changed since the look."""
    if digest is not None and isinstance(outcome, firings.Prepared) and outcome.digest != digest:
        return None
    now = services.now()
    with services.database.write() as session:
        current = firings.locked(session, schedule.id)
        if current is None:
            raise _unknown(session, schedule.name)
        firing = firings.of_digest(session, current, digest) if digest is not None else None
        if firing is None:
            firing = firings.open_one(session, current, cause="manual", at=now, source=source, digest=digest)
        assert firing is not None, "a manual firing has no moment that another could have"
        if firing.job is not None:
            return None
        firing.cause, firing.at, firing.reason, firing.decided_at = "manual", now, None, None
        if isinstance(outcome, InvalidRequest):
            firings.close(firing, "failed", outcome.message, now=now)
        else:  # a user has asked for it, so it is not skipped
            overlap = "queue" if definition.overlap == "skip" else definition.overlap
            firings.start(session, current, firing, outcome, overlap=overlap, now=now)
        looking.mark_known(session, current)
        view = firing_view(firing, definition.name)
    if firing.job is None:
        services.metrics.fired(firing.outcome)
    services.wake.set()
    return view


def _replace(
    services: Services,
    session: Session,
    schedule: Schedule,
    *,
    before: ScheduleRequest,
    after: ScheduleRequest,
) -> None:
    now = services.now()
    if (after.cron, after.paused) != (before.cron, before.paused):
        schedule.next_at = next_of(after, now=now)
    watched = (after.on_new_checkpoint, after.template.spec.needs_tokenizer)
    if watched != (before.on_new_checkpoint, before.template.spec.needs_tokenizer):
        session.execute(delete(Sighting).where(Sighting.schedule == schedule.id))
        schedule.looked_at = None
    schedule.name, schedule.paused = after.name, after.paused
    schedule.definition = after.model_dump_json()
    schedule.updated_at = now
    schedule.error = None
    session.flush()


def _validated(merged: dict[str, object]) -> ScheduleRequest:
    try:
        return ScheduleRequest.model_validate(merged)
    except ValidationError as error:
        problems = [{**problem, "loc": ("body", *problem["loc"])} for problem in error.errors()]
        raise RequestValidationError(problems, body=merged) from None


def _check(services: Services, request: ScheduleRequest) -> None:
    check(request)
    watch = request.on_new_checkpoint
    if watch is None:
        return
    try:
        open_tree(watch.source, services.access).check()
    except InvalidRequest as error:
        error.param = WATCHED
        raise
    own = _storage(services)
    if own is not None and _overlap(parse_uri(watch.source), own):
        raise InvalidSpec(
            f"{WATCHED} {watch.source} and the storage of this service, {own}, lie within each other: what "
            f"it publishes would be pruned again; watch a prefix beside it",
            WATCHED,
        )


def _storage(services: Services) -> Uri | None:
    try:
        return parse_uri(unquote(services.settings.storage_url))
    except ValueError:
        return None


def _overlap(one: Uri, other: Uri) -> bool:
    if one.scheme != other.scheme:
        return False
    first, second = Path("/", one.location), Path("/", other.location)
    return first.is_relative_to(second) or second.is_relative_to(first)


def _found(session: Session, key: str, *, lock: bool = False) -> Schedule:
    query = select(Schedule).where(or_(Schedule.id == key, Schedule.name == key))
    schedule = session.scalar(query.with_for_update() if lock else query)
    if schedule is None:
        raise _unknown(session, key)
    return schedule


def _unknown(session: Session, key: str) -> ApiError:
    names: Sequence[str] = session.scalars(select(Schedule.name).order_by(Schedule.name)).all()
    hint = suggestion(key, names)
    return ApiError(404, "schedule_not_found", f"there is no schedule {key}{hint}", "id")


def _taken(name: str) -> NoReturn:
    raise ApiError(
        409, "schedule_exists", f"there is a schedule {name!r} already; change it by PATCH", "name"
    )
