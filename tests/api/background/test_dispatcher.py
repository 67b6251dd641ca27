"""The dispatcher against a Ray of our own making: what it hands over, waits for, and cancels."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from api.auth import token_matches
from api.background.dispatcher import Dispatcher
from api.db.models import Attempt
from api.submit import RayJob, RayStatus
from pipeline.job.events import AttemptStarted
from tests.api.background.dispatching import Scene

pytestmark = pytest.mark.servers


def test_a_job_is_handed_over_once(scene: Scene) -> None:
    job = scene.post(name="pretty", labels={"team": "serving"})
    dispatcher = scene.dispatcher()
    for _ in range(3):
        dispatcher.round()
    (submission,) = scene.ray.submissions
    assert submission.submission_id == f"{job}-1"
    assert submission.entrypoint.endswith(f"-m workers.driver --job {job} --attempt 1")
    assert submission.metadata["name"] == "pretty"
    assert submission.metadata["label:team"] == "serving"
    assert not any("SECRET" in name or "KEY" in name for name in submission.environment)
    order = scene.order()
    assert (order.job, order.attempt, order.report_to) == (job, 1, scene.settings.public_url)
    with scene.api.services.database.read() as session:
        attempt = session.get(Attempt, (job, 1))
    assert attempt is not None
    assert order.token is not None
    assert order.token not in str(submission)
    assert token_matches(order.token, attempt.token_digest)
    assert scene.types(job) == ["job.queued", "attempt.submitted"]


def test_urgent_ones_first_then_the_oldest(scene: Scene) -> None:
    low, high, second = scene.post(priority=-1), scene.post(priority=5), scene.post(priority=5)
    dispatcher = scene.dispatcher()
    for expected in (high, second, low):
        dispatcher.round()
        assert scene.ray.submissions[-1].submission_id == f"{expected}-1"
        scene.stores_result(expected)
        scene.ray.end("SUCCEEDED")
        dispatcher.round()
    assert [scene.job(job)["status"] for job in (low, high, second)] == ["succeeded"] * 3


def test_two_processes_never_hand_over_the_same_job(scene: Scene) -> None:
    jobs = [scene.post() for _ in range(12)]
    dispatchers = [scene.dispatcher(owner=f"process {n}", max_running_jobs=12) for n in range(4)]

    def work(dispatcher: Dispatcher) -> None:
        for _ in range(5):
            dispatcher.round()

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, dispatchers))
    assert sorted(s.submission_id for s in scene.ray.submissions) == sorted(f"{job}-1" for job in jobs)


def test_two_processes_keep_the_limit_together(scene: Scene) -> None:
    for _ in range(8):
        scene.post()
    dispatchers = [scene.dispatcher(owner=f"process {n}", max_running_jobs=3) for n in range(4)]

    def work(dispatcher: Dispatcher) -> None:
        for _ in range(3):
            dispatcher.round()

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, dispatchers))
    assert len(scene.ray.submissions) == 3


def test_killed_between_submission_and_commit(scene: Scene) -> None:
    job = scene.post()
    scene.ray.dies_after_submit = True
    with pytest.raises(SystemExit):
        scene.dispatcher().round()
    scene.ray.dies_after_submit = False
    assert scene.types(job) == ["job.queued"]
    assert scene.says(AttemptStarted(nodes=())) == 200  # the driver is at work meanwhile
    scene.dispatcher().round()
    assert len(scene.ray.submissions) == 1
    assert "attempt.submitted" in scene.types(job)
    assert scene.job(job)["status"] == "running"


def test_a_ray_that_is_away_changes_nothing(scene: Scene) -> None:
    waiting, dispatcher = scene.post(), scene.dispatcher()
    scene.ray.away = True
    for _ in range(3):
        dispatcher.round()
    assert scene.types(waiting) == ["job.queued"]
    scene.ray.away = False
    dispatcher.round()
    scene.ray.away = True
    for _ in range(3):
        dispatcher.round()
    assert scene.types(waiting) == ["job.queued", "attempt.submitted"]


def test_cancelling_what_runs(scene: Scene) -> None:
    job, dispatcher = scene.post(), scene.dispatcher()
    dispatcher.round()
    scene.says(AttemptStarted(nodes=()))
    scene.ray.jobs[f"{job}-1"] = RayJob(status="RUNNING")
    assert scene.api.client.post(f"/jobs/{job}/cancel").json()["status"] == "cancelling"
    assert scene.api.client.post(f"/jobs/{job}/cancel").json()["status"] == "cancelling"
    dispatcher.round()
    assert scene.ray.stopped == [f"{job}-1"]
    assert scene.job(job)["status"] == "cancelling"
    scene.ray.end("STOPPED")
    dispatcher.round()
    assert scene.job(job)["status"] == "cancelled"
    assert scene.types(job)[-2:] == ["job.cancel_requested", "job.cancelled"]
    dispatcher.round()
    assert len(scene.ray.submissions) == 1


def test_cancelling_before_ray_has_it(scene: Scene) -> None:
    job, dispatcher = scene.post(), scene.dispatcher()
    scene.ray.away = True
    dispatcher.round()
    assert scene.api.client.post(f"/jobs/{job}/cancel").json()["status"] == "cancelling"
    scene.ray.away = False
    dispatcher.round()
    assert (scene.job(job)["status"], scene.ray.submissions) == ("cancelled", [])


@pytest.mark.parametrize(("status", "outcome"), [("SUCCEEDED", "succeeded"), ("STOPPED", "cancelled")])
def test_cancelling_what_is_nearly_done(scene: Scene, status: RayStatus, outcome: str) -> None:
    job, dispatcher = scene.post(), scene.dispatcher()
    dispatcher.round()
    scene.api.client.post(f"/jobs/{job}/cancel")
    scene.stores_result(job)
    scene.ray.end(status)
    dispatcher.round()
    assert scene.job(job)["status"] == outcome


def test_storage_that_is_away_is_waited_for(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    from pipeline.errors import StorageUnavailable

    job, dispatcher = scene.post(), scene.dispatcher()
    store = scene.api.services.content.store
    real = type(store).put

    def put(*args: Any, **given: Any) -> None:
        raise StorageUnavailable("away")

    monkeypatch.setattr(type(store), "put", put)
    dispatcher.round()
    assert scene.ray.submissions == []
    monkeypatch.setattr(type(store), "put", real)
    dispatcher.round()
    assert [s.submission_id for s in scene.ray.submissions] == [f"{job}-1"]
