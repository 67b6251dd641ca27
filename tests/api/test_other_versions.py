"""Rows that another version of Secateur stored, newer or older: they stop nothing but themselves."""

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from sqlalchemy import text, update

from api.db.engine import Database
from api.db.migrate import NewerDatabaseError, upgrade
from api.db.models import Attempt, EventRow, Job, Schedule
from api.service.jobs import leases
from api.service.stored import changed
from pipeline.job.events import AttemptStarted, StageFinished
from pipeline.job.ledger import Measured, NodeResult
from pipeline.job.state import JobState
from pipeline.request.prune_spec import JobRequest
from tests.api.background.dispatching import FakeRay, Scene
from tests.api.bodies import body
from tests.api.conftest import running

pytestmark = pytest.mark.servers
Json = dict[str, Any]


@pytest.fixture
def scene(database_url: str, make_settings: Callable[..., Any]) -> Iterator[Scene]:
    settings = make_settings(database_url=database_url, max_running_jobs=1)
    with running(settings) as api:
        yield Scene(api, FakeRay(), settings)


def set_column(scene: Scene, job: str, **values: str) -> None:
    with scene.api.services.database.write() as session:
        session.execute(update(Job).where(Job.id == job).values(**values))


def request_of(scene: Scene, job: str) -> Json:
    with scene.api.services.database.read() as session:
        row = session.get(Job, job)
    assert row is not None
    found: Json = json.loads(row.request)
    return found


def with_new_field(scene: Scene, job: str) -> None:
    """As if a newer version had accepted `spec.quantized`."""
    request = request_of(scene, job)
    request["spec"]["quantized"] = {"weights": "int4"}
    set_column(scene, job, request=json.dumps(request))


def with_new_method(scene: Scene, job: str) -> None:
    request = request_of(scene, job)
    request["spec"]["prune"]["method"] = {"kind": "of-tomorrow"}
    set_column(scene, job, request=json.dumps(request))


@pytest.mark.parametrize("newer", [with_new_field, with_new_method])
def test_a_request_from_tomorrow_waits_and_others_run(
    scene: Scene, newer: Callable[[Scene, str], None]
) -> None:
    strange, sound = scene.post(priority=5), scene.post()
    newer(scene, strange)
    dispatcher = scene.dispatcher()
    for _ in range(3):
        dispatcher.round()
    assert [one.submission_id for one in scene.ray.submissions] == [f"{sound}-1"]
    shown = scene.job(strange)
    assert shown["status"] == "queued"
    assert "another version" in shown["unread"]
    assert scene.job(sound)["unread"] is None
    listed = scene.api.client.get("/jobs").json()["data"]
    assert {job["id"] for job in listed} == {strange, sound}


def test_a_field_from_tomorrow_is_named_and_the_rest_is_shown(scene: Scene) -> None:
    job = scene.post()
    with_new_field(scene, job)
    shown = scene.job(job)
    assert "spec.quantized" in shown["unread"]
    assert shown["spec"]["prune"]["method"]["kind"] == body()["spec"]["prune"]["method"]["kind"]
    with_new_method(scene, job)
    shown = scene.job(job)
    assert (shown["spec"], shown["resources"]) == (None, None)
    assert "spec.prune.method" in shown["unread"]


def test_what_tomorrow_accepted_can_be_cancelled_here(scene: Scene) -> None:
    job = scene.post()
    with_new_field(scene, job)
    assert scene.api.client.post(f"/jobs/{job}/cancel").json()["status"] == "cancelled"
    assert scene.api.client.post(f"/jobs/{job}/reproduce").json()["error"]["code"] == "job_not_reproducible"


def test_an_attempt_that_another_version_opened_is_passed_on(scene: Scene) -> None:
    """The other version died before it submitted: its successor takes the job, and we do not hold it."""
    job, other = scene.post(), scene.dispatcher(owner="other")
    assert leases.open_next(scene.api.services.database, other._lease, limit=1, unread={})
    with_new_field(scene, job)
    leases.release(scene.api.services.database, "other")
    ours = scene.dispatcher(owner="ours")
    for _ in range(3):
        ours.round()
    assert scene.ray.submissions == []
    with scene.api.services.database.read() as session:
        row = session.get(Job, job)
    assert row is not None
    assert (row.live, row.lease_owner) == (True, None)


def test_what_another_version_submitted_is_followed_to_its_end(scene: Scene) -> None:
    job, dispatcher = scene.post(), scene.dispatcher()
    dispatcher.round()
    with_new_method(scene, job)
    assert scene.says(AttemptStarted(nodes=())) == 200
    scene.stores_result(job)
    scene.ray.end("SUCCEEDED")
    dispatcher.round()
    assert scene.job(job)["status"] == "running"  # its plan is not known here, so it is left to that version
    assert scene.says(AttemptStarted(nodes=())) == 200
    scene.api.client.post(f"/jobs/{job}/cancel")
    with scene.api.services.database.read() as session:
        row = session.get(Job, job)
    assert row is not None
    assert row.lease_owner is None


def test_events_from_tomorrow(scene: Scene) -> None:
    job, dispatcher = scene.post(), scene.dispatcher()
    dispatcher.round()
    node = NodeResult(node="prune", key="0" * 64, cached=True, artifacts={}, measured=Measured(seconds=1))
    assert scene.says(AttemptStarted(nodes=()), StageFinished(result=node)) == 200
    with scene.api.services.database.write() as session:
        for row in session.query(EventRow).filter_by(job=job):
            document = json.loads(row.body)
            if row.type == "attempt.started":
                row.type, row.body = "stage.dreamt", json.dumps({"type": "stage.dreamt", "of": "sheep"})
            else:
                row.body = json.dumps(document | {"mood": "good"})
    page = scene.api.client.get(f"/jobs/{job}/events").json()["data"]
    assert [one["body"]["type"] for one in page] == [
        "job.queued",
        "attempt.submitted",
        "message",
        "stage.finished",
    ]
    assert page[2]["body"]["text"].startswith("stage.dreamt: ")
    scene.stores_result(job)
    scene.ray.end("SUCCEEDED")
    dispatcher.round()
    with scene.api.client.stream("GET", f"/jobs/{job}/events?follow=true") as stream:
        assert "event: job.succeeded" in stream.read().decode()
    assert scene.api.client.get(f"/jobs/{job}/artifacts").status_code == 200


def test_a_state_from_tomorrow_keeps_its_fields(scene: Scene) -> None:
    job = scene.post()
    set_column(scene, job, state=json.dumps(JobState().model_dump(mode="json") | {"mood": "good"}))
    assert scene.api.client.post(f"/jobs/{job}/cancel").json()["status"] == "cancelled"
    with scene.api.services.database.read() as session:
        row = session.get(Job, job)
    assert row is not None
    assert json.loads(row.state)["mood"] == "good"


def test_a_status_from_tomorrow(scene: Scene) -> None:
    strange, sound = scene.post(), scene.post()
    state = JobState().model_dump(mode="json") | {"status": "dreaming"}
    set_column(scene, strange, state=json.dumps(state), status="dreaming")
    dispatcher = scene.dispatcher()
    dispatcher.round()
    assert [one.submission_id for one in scene.ray.submissions] == [f"{sound}-1"]
    assert scene.job(strange)["status"] == "unknown"
    answer = scene.api.client.post(f"/jobs/{strange}/cancel")
    assert (answer.status_code, answer.json()["error"]["code"]) == (409, "stored_by_another_version")


def test_a_failure_from_tomorrow(scene: Scene) -> None:
    job, dispatcher = scene.post(), scene.dispatcher(max_attempts=1)
    dispatcher.round()
    with scene.api.services.database.write() as session:
        session.execute(
            update(Attempt).values(reason=json.dumps({"code": "x", "message": "y", "blame": "z"}))
        )
    scene.ray.end("FAILED")
    dispatcher.round()
    assert scene.job(job)["error"]["code"] == "stored_by_another_version"


def test_a_schedule_from_tomorrow(scene: Scene) -> None:
    cron = {"expression": "0 12 * * *", "timezone": "UTC"}
    for name in ("strange", "sound"):
        request = {"name": name, "cron": cron, "template": body()}
        assert scene.api.client.post("/schedules", json=request).status_code == 201
    with scene.api.services.database.write() as session:
        row = session.query(Schedule).filter_by(name="strange").one()
        row.definition = json.dumps(json.loads(row.definition) | {"mood": "good"})
    listed = scene.api.client.get("/schedules").json()
    assert [one["name"] for one in listed["data"]] == ["sound"]
    assert [one["name"] for one in listed["unread"]] == ["strange"]
    assert "mood" in listed["unread"][0]["why"]
    for answer in (
        scene.api.client.get("/schedules/strange"),
        scene.api.client.post("/schedules/strange/pause"),
        scene.api.client.post("/schedules/strange/run"),
    ):
        assert answer.json()["error"]["code"] == "stored_by_another_version"
    assert scene.api.client.delete("/schedules/strange").status_code == 204


def test_unknown_fields_survive_a_change_at_every_level() -> None:
    request = JobRequest.model_validate(body())
    before = request.model_dump(mode="json")
    before["new"] = 1
    before["spec"]["new"] = {"a": [1]}
    before["resources"]["new"] = None
    after = json.loads(changed(json.dumps(before), request))
    assert after == before


def test_an_older_version_runs_on_a_newer_database_that_allows_it(database_url: str) -> None:
    database = Database(database_url)
    upgrade(database)
    with database.write() as session:
        session.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    upgrade(database)  # usable from 0004 on, says the row
    with database.write() as session:
        session.execute(text("UPDATE schema_compatibility SET usable_from = '9998'"))
    with pytest.raises(NewerDatabaseError, match="start a version that knows 9998"):
        upgrade(database)
    database.close()


def test_a_migration_that_was_interrupted_is_run_again(database_url: str) -> None:
    """Indexes of PostgreSQL are made before the rest, outside of its transaction."""
    database = Database(database_url)
    upgrade(database)
    with database.write() as session:
        session.execute(text("DROP TABLE schema_compatibility"))
        for table, column in (("jobs", "max_runtime"), ("jobs", "deadline_at"), ("attempts", "heard_at")):
            session.execute(text(f"ALTER TABLE {table} DROP COLUMN {column}"))
        if database.engine.dialect.name == "sqlite":
            for index in (
                "ix_jobs_live",
                "ix_jobs_queued",
                "ix_jobs_status_id",
                "ix_jobs_id_model",
                "ix_events_job_type_id",
            ):
                session.execute(text(f"DROP INDEX {index}"))
        session.execute(text("UPDATE alembic_version SET version_num = '0004'"))
    upgrade(database)
    with database.read() as session:
        assert session.scalar(text("SELECT usable_from FROM schema_compatibility")) == "0004"
    database.close()
