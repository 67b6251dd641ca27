"""Checks and stores the events that drivers report."""

from itertools import pairwise

from pydantic import Field, ValidationError, field_validator
from sqlalchemy.orm import Session

from api.auth import token_matches
from api.db.models import Attempt
from api.errors import ApiError
from api.service.context import Services
from api.service.jobs import journal
from api.service.jobs.journal import BODY
from pipeline.canonical import Frozen
from pipeline.job.events import DriverEvent

API_ALONE = ("job.", "attempt.submitted")  # the beginnings of types that only the API itself emits


class DriverEvents(Frozen):
    """Consecutive events of one attempt."""

    events: tuple[DriverEvent, ...] = Field(max_length=10_000)

    @field_validator("events")
    @classmethod
    def _in_order(cls, value: tuple[DriverEvent, ...]) -> tuple[DriverEvent, ...]:
        for before, after in pairwise(value):
            if after.sequence != before.sequence + 1:
                raise ValueError(f"sequence {after.sequence} follows {before.sequence}; they count by one")
        for event in value:
            if event.body.type.startswith(API_ALONE):
                raise ValueError(f"drivers may not report {event.body.type}")
            if event.at.tzinfo is None or not 2000 <= event.at.year <= 2200:
                raise ValueError(f"at={event.at.isoformat()} must have a zone and lie in 2000 to 2200")
            try:
                BODY.validate_json(event.body.model_dump_json())
            except ValidationError as error:  # NaN and infinity
                raise ValueError(f"event {event.sequence} does not survive JSON: {error}") from None
        return value


class Accepted(Frozen):
    """The answer to events: all up to this sequence number are stored."""

    accepted_through: int


def take(services: Services, job_id: str, number: int, *, token: str, events: DriverEvents) -> Accepted:
    """Store those events that are new; events stored before are skipped. None at all is a heartbeat.

    Raises ApiError 401/403 for a wrong token, 410 when the attempt is over, 409 when events are missing.
    """
    with services.database.write() as session:
        job = journal.locked(session, job_id)
        attempt = _allowed(session, job_id, number, token)
        assert job is not None, "an attempt has a job"
        fresh = [event for event in events.events if event.sequence > attempt.accepted]
        if fresh and fresh[0].sequence != attempt.accepted + 1:
            expected = attempt.accepted + 1
            raise ApiError(
                409,
                "sequence_gap",
                f"events {expected} to {fresh[0].sequence - 1} are missing; send them first",
                "events.0.sequence",
                expected=expected,
            )
        entries = [
            journal.Entry(attempt=number, body=event.body, at=event.at, sequence=event.sequence)
            for event in fresh
        ]
        if not events.events or attempt.heard_at is not None:  # its first heartbeat, or any sign after it
            attempt.heard_at = services.now()
        if entries:
            attempt.accepted = fresh[-1].sequence
            journal.append(session, job, entries)
        for event in fresh:
            if event.body.type == "attempt.failed":
                attempt.reason = event.body.reason.model_dump_json()
        accepted = attempt.accepted
    for event in fresh:
        services.metrics.saw(event.body)
    if any(event.body.type in ("attempt.finished", "attempt.failed") for event in fresh):
        services.wake.set()
    return Accepted(accepted_through=accepted)


def _allowed(session: Session, job_id: str, number: int, token: str) -> Attempt:
    attempt = session.get(Attempt, (job_id, number))
    if not token:
        raise ApiError(401, "token_missing", "send the attempt's token: Authorization: Bearer <token>")
    if attempt is None or not token_matches(token, attempt.token_digest):
        raise ApiError(403, "token_refused", "this token is not good for this attempt")
    if attempt.ended_at is not None:
        raise ApiError(410, "attempt_ended", f"attempt {number} of {job_id} is over; stop working on it")
    return attempt
