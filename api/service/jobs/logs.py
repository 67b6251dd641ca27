"""The output of drivers, from Ray while they run and from storage afterwards."""

from collections.abc import Iterator
from dataclasses import dataclass

from sqlalchemy import select

from api.db.models import Attempt
from api.errors import ApiError
from api.service.context import Services
from api.service.jobs.attempts import note_log_stored
from api.service.jobs.jobs import find
from api.service.jobs.leases import LiveAttempt
from api.submit import RayUnavailable
from pipeline.job.state import TERMINAL


def log_key(job: str, attempt: int) -> str:
    """The key in storage of an attempt's output, which is stored after its end."""
    return f"jobs/{job}/attempts/{attempt}/driver.log"


def log_link(job: str, attempt: int) -> str:
    """The address at which users find an attempt's output."""
    return f"/jobs/{job}/logs?attempt={attempt}"


def store_log(services: Services, live: LiveAttempt) -> None:
    """Copy an attempt's output from Ray to storage, if Ray knows the attempt."""
    output = services.ray.log(live.submission_id)
    if output is None:
        return
    services.content.store.put(log_key(live.job, live.number), [output.encode()])
    note_log_stored(services.database, live)


def read_log(services: Services, job_id: str, *, attempt: int | None) -> Iterator[bytes]:
    """The output of one attempt, by default the latest; empty when none has begun. Raises ApiError 404."""
    find(services, job_id)
    row = attempt_row(services, job_id, attempt)
    return iter(()) if row is None else _output(services, row)


@dataclass(frozen=True)
class Look:
    """The output of an attempt so far. `over`: it has ended. `next`: the number of the attempt after it."""

    output: bytes
    over: bool
    next: int | None
    job_over: bool


def look(services: Services, job_id: str, number: int | None) -> Look:
    """Reads the state first and the output after it, so that the output of an ended attempt is complete."""
    job = find(services, job_id)
    row = attempt_row(services, job_id, number or 1) if job.attempt else None
    if row is None:
        return Look(output=b"", over=True, next=None, job_over=job.status in TERMINAL)
    over = row.ended_at is not None
    try:
        output = b"".join(_output(services, row))
    except RayUnavailable:  # Ray may come back; until then there is no new output
        output = b""
    following = row.number + 1 if over and job.attempt > row.number else None
    return Look(output=output, over=over, next=following, job_over=job.status in TERMINAL)


def _output(services: Services, row: Attempt) -> Iterator[bytes]:
    if row.log_stored:
        return services.content.store.get(log_key(row.job, row.number))
    return iter([(services.ray.log(row.submission_id) or "").encode("utf-8", "replace")])


def attempt_row(services: Services, job_id: str, number: int | None) -> Attempt | None:
    """The named attempt, or the latest. Raises ApiError 404 when the named one does not exist."""
    query = select(Attempt).where(Attempt.job == job_id).order_by(Attempt.number.desc()).limit(1)
    if number is not None:
        query = query.where(Attempt.number == number)
    with services.database.read() as session:
        row = session.scalar(query)
    if row is None and number is not None:
        raise ApiError(404, "attempt_not_found", f"job {job_id} has no attempt {number}", "attempt")
    return row
