"""A Ray that refuses, is slow, or says that a driver runs which is silent."""

from datetime import UTC, datetime, timedelta

import pytest

from api.background.dispatcher import ROUND_SECONDS
from api.submit import RayJob
from pipeline.job.events import AttemptStarted
from tests.api.background.dispatching import Scene

pytestmark = pytest.mark.servers


def messages(scene: Scene, job: str) -> list[str]:
    events = scene.api.client.get(f"/jobs/{job}/events").json()["data"]
    return [told["body"]["text"] for told in events if told["body"]["type"] == "message"]


@pytest.mark.parametrize("status", [500, 503, 401, 403, 429])
def test_a_refusal_that_may_end_costs_no_try_and_is_told_once(scene: Scene, status: int) -> None:
    job, dispatcher = scene.post(), scene.dispatcher(max_attempts=1)
    scene.ray.refuses = status
    for _ in range(30):
        scene.now += timedelta(minutes=2)
        dispatcher.round()
    assert scene.job(job)["status"] == "queued"
    (told,) = messages(scene, job)
    assert "no try is lost" in told
    scene.ray.refuses = None
    scene.now += timedelta(minutes=2)
    dispatcher.round()
    assert [one.submission_id for one in scene.ray.submissions] == [f"{job}-1"]


def test_pauses_between_submissions_grow(scene: Scene) -> None:
    scene.post()
    dispatcher = scene.dispatcher()
    scene.ray.refuses = 503
    dispatcher.round()
    tried = []
    for second in range(300):
        scene.now += timedelta(seconds=1)
        before = scene.ray.asked
        dispatcher.round()
        if scene.ray.asked - before > 1:  # more than the look at the states
            tried.append(second + 1)
    assert tried == [1, 3, 7, 15, 31, 63, 123, 183, 243]


def test_a_request_that_ray_refuses_for_good_fails(scene: Scene) -> None:
    job, dispatcher = scene.post(), scene.dispatcher(max_attempts=1)
    scene.ray.refuses = 400
    dispatcher.round()
    assert scene.job(job)["error"]["code"] == "submission_refused"


def test_one_look_for_all_jobs(scene: Scene) -> None:
    for _ in range(20):
        scene.post()
    dispatcher = scene.dispatcher(max_running_jobs=20)
    dispatcher.round()
    before = scene.ray.asked
    dispatcher.round()
    assert scene.ray.asked - before == 1


def test_a_job_is_cancelled_before_slow_work_goes_on(scene: Scene) -> None:
    """Each answer of Ray takes a third of a round, and a hundred jobs wait to be handed over."""
    jobs = [scene.post() for _ in range(30)]
    dispatcher = scene.dispatcher(max_running_jobs=30)
    dispatcher.round()
    for job in jobs:
        scene.ray.jobs[f"{job}-1"] = RayJob(status="RUNNING")
    waiting = [scene.post() for _ in range(30)]
    dispatcher = scene.dispatcher(max_running_jobs=60)

    def slow() -> None:
        scene.seconds += ROUND_SECONDS / 3

    scene.ray.delay = slow
    scene.api.client.post(f"/jobs/{jobs[-1]}/cancel")
    dispatcher.round()
    assert scene.ray.stopped == [f"{jobs[-1]}-1"]
    for _ in range(30):  # and no job starves: a round goes on where the last one stopped
        dispatcher.round()
    assert {one.submission_id for one in scene.ray.submissions} >= {f"{job}-1" for job in waiting}


def test_leases_are_renewed_while_ray_is_slow(scene: Scene) -> None:
    job, first = scene.post(), scene.dispatcher(lease_seconds=600)
    first.round()
    second = scene.dispatcher(owner="another")

    def meanwhile() -> None:
        scene.ray.delay = lambda: None
        first.renew()
        second.round()

    scene.ray.delay = meanwhile
    first.round()
    scene.stores_result(job)
    scene.ray.end("SUCCEEDED")
    second.round()
    assert scene.job(job)["status"] == "queued"  # still the first one's
    first.round()
    assert scene.job(job)["status"] == "succeeded"


def test_a_driver_that_is_silent_is_ended_and_tried_again(scene: Scene) -> None:
    job, dispatcher = scene.post(), scene.dispatcher()
    dispatcher.round()
    scene.ray.jobs[f"{job}-1"] = RayJob(status="RUNNING")
    assert scene.says() == 200  # a heartbeat
    scene.now += timedelta(seconds=600)
    dispatcher.round()
    assert scene.ray.stopped == []
    scene.now += timedelta(seconds=400)
    dispatcher.round()
    assert scene.ray.stopped == [f"{job}-1"]
    scene.ray.end("STOPPED")
    dispatcher.round()
    assert scene.job(job)["status"] == "queued"
    events = scene.api.client.get(f"/jobs/{job}/events").json()["data"]
    (failure,) = (told["body"]["reason"] for told in events if told["body"]["type"] == "attempt.failed")
    assert (failure["code"], failure["blame"]) == ("driver_silent", "machine")


def test_a_driver_of_an_older_version_sends_no_heartbeats(scene: Scene) -> None:
    job, dispatcher = scene.post(), scene.dispatcher()
    dispatcher.round()
    scene.ray.jobs[f"{job}-1"] = RayJob(status="RUNNING")
    assert scene.says(AttemptStarted(nodes=())) == 200
    scene.now += timedelta(days=2)
    dispatcher.round()
    assert scene.ray.stopped == []


def test_a_service_that_was_away_gives_drivers_time(scene: Scene) -> None:
    job, dispatcher = scene.post(), scene.dispatcher()
    dispatcher.round()
    scene.ray.jobs[f"{job}-1"] = RayJob(status="RUNNING")
    assert scene.says() == 200
    scene.now += timedelta(days=1)
    scene.dispatcher().round()  # of a process that starts now
    assert scene.ray.stopped == []


def test_max_runtime_ends_a_job(scene: Scene) -> None:
    job, dispatcher = scene.post(max_runtime_hours=2.0), scene.dispatcher()
    dispatcher.round()
    scene.ray.jobs[f"{job}-1"] = RayJob(status="RUNNING")
    scene.now += timedelta(hours=1.9)
    dispatcher.round()
    assert scene.ray.stopped == []
    scene.now += timedelta(hours=0.2)
    dispatcher.round()
    assert scene.ray.stopped == [f"{job}-1"]
    scene.ray.end("STOPPED")
    dispatcher.round()
    shown = scene.job(job)
    assert (shown["status"], shown["error"]["code"]) == ("failed", "max_runtime")
    assert scene.api.client.post(f"/jobs/{job}/retry").json()["status"] == "queued"
    scene.now = datetime.now(UTC)  # submissions are dated by the real clock
    dispatcher.round()
    scene.ray.jobs[f"{job}-2"] = RayJob(status="RUNNING")
    dispatcher.round()
    assert scene.ray.stopped == [f"{job}-1"]  # its time begins anew
