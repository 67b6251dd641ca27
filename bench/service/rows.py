"""The rows of bench/api.py: jobs and events as the service stores them. This is no bench itself."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path

from sqlalchemy import insert, text

from api.auth import new_token, token_digest
from api.db.engine import Database
from api.db.migrate import upgrade
from api.db.models import Attempt, EventRow, Job, JobLabel
from api.service.ids import first_id
from pipeline.job.events import AttemptStarted, AttemptSubmitted, JobQueued, JobSucceeded, StageProgress
from pipeline.job.state import JobState
from pipeline.request.prune_spec import JobRequest
from pipeline.resolve.resolve import resolve
from pipeline.sources.access import SourceAccess

LIVE = 100
LARGE_EVENTS = 100_000
STATUSES = ("succeeded",) * 8 + ("failed", "cancelled")
RARE = 5000  # one in so many jobs has a rare model and label
CHUNK = 5000
Row = dict[str, object]


@dataclass(frozen=True)
class Filled:
    """What was stored: the jobs that run, the token of all of their drivers, and the job with many events."""

    live: list[str]
    token: str
    large: str


def batched(numbers: Iterable[int], size: int) -> Iterator[tuple[int, ...]]:
    """The numbers in tuples of so many."""
    rest = iter(numbers)
    while batch := tuple(islice(rest, size)):
        yield batch


def request_of(model: Path) -> dict[str, object]:
    """The body of a submission."""
    return {
        "spec": {
            "model": {"source": f"file:{model}"},
            "prune": {"method": {"kind": "magnitude"}, "pattern": {"kind": "unstructured", "sparsity": 0.5}},
        }
    }


def fill(url: str, model: Path, *, jobs: int) -> Filled:
    """Store so many jobs, the newest of which run, and five events for each."""
    database, token = Database(url), new_token()
    upgrade(database)
    request = JobRequest.model_validate(request_of(model))
    pins = resolve(request.spec, SourceAccess(allowed_roots=(model,)))
    stored = {"request": request.model_dump_json(), "pins": pins.model_dump_json()}
    begun = datetime.now(UTC) - timedelta(minutes=jobs)
    ids = [_id(begun + timedelta(minutes=n), n) for n in range(jobs)]
    live = ids[-LIVE:]
    with database.write() as session:
        for chunk in batched(range(jobs), CHUNK):
            rows = [
                _job(ids[n], n, begun + timedelta(minutes=n), stored, live=n >= jobs - LIVE) for n in chunk
            ]
            session.execute(insert(Job), rows)
            session.execute(insert(JobLabel), [_label(ids[n], n) for n in chunk])
            session.execute(
                insert(EventRow),
                [one for n in chunk for one in _events(ids[n], begun + timedelta(minutes=n))],
            )
        session.execute(insert(Attempt), [_attempt(job, token) for job in live])
        large = ids[jobs // 2]
        for chunk in batched(range(LARGE_EVENTS), CHUNK):
            session.execute(insert(EventRow), [_progress(large, n) for n in chunk])
    with database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("VACUUM ANALYZE" if url.startswith("postgresql") else "ANALYZE"))
    database.close()
    return Filled(live=live, token=token, large=large)


def _id(moment: datetime, number: int) -> str:
    return f"{first_id('job', int(moment.timestamp()))[:-6]}{number % 10**6:06d}"


def _job(job: str, number: int, at: datetime, stored: Row, *, live: bool) -> Row:
    status = "running" if live else STATUSES[number % len(STATUSES)]
    state = JobState.model_validate({"status": status, "attempt": 1, "started_at": at})
    return {
        **stored,
        "id": job,
        "created_at": at,
        "model": f"s3://models/{'rare' if number % RARE == 0 else 'llama'}/checkpoint-{number}",
        "priority": 0,
        "body_digest": "0" * 64,
        "status": status,
        "state": state.model_dump_json(),
        "attempt": 1,
        "tries": 0,
        "live": live,
    }


def _label(job: str, number: int) -> Row:
    return {"job": job, "key": "team", "value": "rare" if number % RARE == 0 else f"team-{number % 4}"}


def _events(job: str, at: datetime) -> Iterator[Row]:
    bodies = (
        JobQueued(),
        AttemptSubmitted(submission_id=f"{job}-1"),
        AttemptStarted(nodes=()),
        StageProgress(node="prune", done=1, total=2, unit="blocks"),
        JobSucceeded(),
    )
    for body in bodies:
        yield {"job": job, "attempt": 1, "at": at, "type": body.type, "body": body.model_dump_json()}


def _progress(job: str, number: int) -> Row:
    body = {"type": "stage.progress", "node": "prune", "done": number, "total": LARGE_EVENTS, "unit": "steps"}
    return {
        "job": job,
        "attempt": 1,
        "sequence": number + 1,
        "at": datetime.now(UTC),
        "type": "stage.progress",
        "body": json.dumps(body),
    }


def _attempt(job: str, token: str) -> Row:
    now = datetime.now(UTC)
    return {
        "job": job,
        "number": 1,
        "submission_id": f"{job}-1",
        "token_digest": token_digest(token),
        "created_at": now,
        "submitted_at": now,
        "accepted": 0,
        "log_stored": False,
    }
