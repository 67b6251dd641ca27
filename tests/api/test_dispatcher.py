"""The dispatcher against a Ray of our own making: every way in which an attempt can go."""

import socket
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import pytest
from sqlalchemy import update

from api.auth import token_matches
from api.background.dispatcher import REFUSALS, Dispatcher
from api.db.models import Attempt, Job
from api.service.jobs import attempts
from api.settings import Settings
from api.submit import RayJob, RayJobsClient, RayRefused, RayStatus, RayUnavailable, Submission
from pipeline.job.events import AttemptFailed, AttemptStarted, FailureReason, NodePlanned
from pipeline.job.ledger import JobResult, Measured, NodeResult, WorkOrder, job_result_key, order_key
from pipeline.storage import S3Options
from tests.api.attempts import event
from tests.api.bodies import body
from tests.api.conftest import RunningApi, running

RESULT = JobResult(
    nodes=(NodeResult(node="prune", key="0" * 64, cached=True, artifacts={}, measured=Measured(seconds=1)),)
)


pytestmark = pytest.mark.servers


@dataclass
class FakeRay:
    """Keeps submissions and says what the test wants."""

    jobs: dict[str, RayJob] = field(default_factory=dict)
    submissions: list[Submission] = field(default_factory=list)
    stopped: list[str] = field(default_factory=list)
    logs: dict[str, str] = field(default_factory=dict)
    away: bool = False
    refuses: bool = False
    dies_after_submit: bool = False

    def submit(self, submission: Submission) -> None:
        self._answer()
        if self.refuses:
            raise RayRefused("no agent")
        assert submission.submission_id not in self.jobs, "submitted twice"
        self.submissions.append(submission)
        self.jobs[submission.submission_id] = RayJob(status="PENDING")
        if self.dies_after_submit:
            raise SystemExit("kill -9")

    def find(self, submission_id: str) -> RayJob | None:
        self._answer()
        return self.jobs.get(submission_id)

    def stop(self, submission_id: str) -> None:
        self._answer()
        self.stopped.append(submission_id)

    def log(self, submission_id: str) -> str | None:
        self._answer()
        return self.logs.get(submission_id)

    def end(self, status: RayStatus, *, message: str | None = None, exit_code: int | None = None) -> None:
        """The latest job is over."""
        latest = self.submissions[-1].submission_id
        self.jobs[latest] = RayJob(status=status, message=message, exit_code=exit_code)

    def _answer(self) -> None:
        if self.away:
            raise RayUnavailable("Ray is away")


@dataclass
class Scene:
    """An API whose dispatcher moves only when the test says so."""

    api: RunningApi
    ray: FakeRay
    settings: Settings

    def dispatcher(self, **changes: Any) -> Dispatcher:
        settings = self.settings.model_copy(update=changes)
        services = replace(self.api.services, ray=cast(RayJobsClient, self.ray), settings=settings)
        return Dispatcher(services)

    def post(self, **given: Any) -> str:
        answer = self.api.client.post("/jobs", json=body(**given))
        assert answer.status_code == 202
        return str(answer.json()["id"])

    def job(self, job_id: str) -> dict[str, Any]:
        found: dict[str, Any] = self.api.client.get(f"/jobs/{job_id}").json()
        return found

    def types(self, job_id: str) -> list[str]:
        events = self.api.client.get(f"/jobs/{job_id}/events").json()["data"]
        return [told["body"]["type"] for told in events]

    def order(self) -> WorkOrder:
        job, _, number = self.ray.submissions[-1].submission_id.rpartition("-")
        return self.api.services.content.get_model(order_key(job, int(number)), WorkOrder)

    def says(self, *told: Any) -> int:
        """The latest driver reports."""
        order = self.order()
        answer = self.api.client.post(
            f"/internal/attempts/{order.job}/{order.attempt}/events",
            json={"events": [event(n, one) for n, one in enumerate(told, start=1)]},
            headers={"Authorization": f"Bearer {order.token}"},
        )
        return answer.status_code

    def stores_result(self, job_id: str) -> None:
        self.api.services.content.put_model(job_result_key(job_id), RESULT)

    def skip_pause(self) -> None:
        with self.api.services.database.write() as session:
            session.execute(update(Job).values(not_before=None))


@pytest.fixture
def scene(database_url: str, make_settings: Callable[..., Settings]) -> Iterator[Scene]:
    """A scene with one job at a time."""
    settings = make_settings(
        database_url=database_url, max_running_jobs=1, s3=S3Options(access_key="y", secret_key="x")
    )
    with running(settings) as api:
        yield Scene(api, FakeRay(), settings)


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
    dispatchers = [scene.dispatcher(max_running_jobs=12) for _ in range(4)]
    for n, dispatcher in enumerate(dispatchers):
        dispatcher._lease = replace(dispatcher._lease, owner=f"process {n}")

    def work(dispatcher: Dispatcher) -> None:
        for _ in range(5):
            dispatcher.round()

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, dispatchers))
    assert sorted(s.submission_id for s in scene.ray.submissions) == sorted(f"{job}-1" for job in jobs)


def test_two_processes_keep_the_limit_together(scene: Scene) -> None:
    for _ in range(8):
        scene.post()
    dispatchers = [scene.dispatcher(max_running_jobs=3) for _ in range(4)]
    for n, dispatcher in enumerate(dispatchers):
        dispatcher._lease = replace(dispatcher._lease, owner=f"process {n}")

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


def test_success_tells_what_the_driver_could_not(scene: Scene) -> None:
    job = scene.post()
    dispatcher = scene.dispatcher()
    dispatcher.round()
    scene.stores_result(job)
    scene.ray.end("SUCCEEDED")
    dispatcher.round()
    shown = scene.job(job)
    assert (shown["status"], shown["progress"], shown["error"]) == ("succeeded", 1.0, None)
    assert {s["node"]: s["status"] for s in shown["stages"]}["prune"] == "cached"
    assert scene.types(job)[2:] == ["attempt.started", "stage.finished", "job.succeeded"]
    assert scene.says(AttemptStarted(nodes=())) == 410


def test_success_repeats_nothing(scene: Scene) -> None:
    job = scene.post()
    dispatcher = scene.dispatcher()
    dispatcher.round()
    scene.says(AttemptStarted(nodes=(NodePlanned(node="prune", stage="prune", needs=()),)))
    scene.stores_result(job)
    scene.ray.end("SUCCEEDED")
    dispatcher.round()
    assert scene.types(job).count("attempt.started") == 1


def test_a_result_counts_however_the_driver_ended(scene: Scene) -> None:
    job = scene.post()
    dispatcher = scene.dispatcher()
    dispatcher.round()
    scene.stores_result(job)
    scene.ray.end("FAILED", exit_code=137)
    dispatcher.round()
    assert scene.job(job)["status"] == "succeeded"


def test_a_dead_driver_is_tried_again_until_the_limit(scene: Scene) -> None:
    job = scene.post()
    dispatcher = scene.dispatcher()
    for number in (1, 2, 3):
        dispatcher.round()
        assert scene.ray.submissions[-1].submission_id == f"{job}-{number}"
        scene.ray.end("FAILED", message="one\ntwo\nKilled", exit_code=137)
        dispatcher.round()
        dispatcher.round()
        assert len(scene.ray.submissions) == number  # there is a pause before the next
        scene.skip_pause()
    shown = scene.job(job)
    assert (shown["status"], shown["error"]["code"]) == ("failed", "driver_died")
    assert "exit code 137" in shown["error"]["message"]
    assert "Killed" in shown["error"]["message"]
    assert shown["error"]["log"] == f"/jobs/{job}/logs?attempt=3"
    dispatcher.round()
    assert len(scene.ray.submissions) == 3

    assert scene.api.client.post(f"/jobs/{job}/retry").status_code == 200
    dispatcher.round()
    assert scene.ray.submissions[-1].submission_id == f"{job}-4"
    scene.ray.end("FAILED", exit_code=1)
    dispatcher.round()
    assert scene.job(job)["status"] == "queued"  # a retry counts its tries anew


@pytest.mark.parametrize("retryable", [True, False])
def test_the_drivers_own_reason_decides(scene: Scene, retryable: bool) -> None:
    job = scene.post()
    dispatcher = scene.dispatcher()
    dispatcher.round()
    reason = FailureReason(
        code="source_changed", message="it moved", node="import_model", retryable=retryable
    )
    scene.says(AttemptStarted(nodes=()), AttemptFailed(reason=reason))
    dispatcher.round()
    assert scene.job(job)["status"] == "running"  # the driver has not left yet
    scene.ray.end("FAILED", message="exit 1", exit_code=1)
    dispatcher.round()
    shown = scene.job(job)
    assert scene.types(job).count("attempt.failed") == 1
    if retryable:
        assert shown["status"] == "queued"
    else:
        assert (shown["status"], shown["error"]["code"]) == ("failed", "source_changed")
        assert (shown["error"]["node"], shown["error"]["log"]) == (
            "import_model",
            f"/jobs/{job}/logs?attempt=1",
        )


def test_a_driver_that_lingers_is_stopped(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    scene.post()
    dispatcher = scene.dispatcher()
    dispatcher.round()
    scene.ray.jobs[scene.ray.submissions[0].submission_id] = RayJob(status="RUNNING")
    scene.says(AttemptFailed(reason=FailureReason(code="x", message="x")))
    dispatcher.round()
    assert scene.ray.stopped == []
    monkeypatch.setattr("api.background.dispatcher.LINGER_SECONDS", -1.0)
    dispatcher.round()
    assert scene.ray.stopped == [scene.ray.submissions[0].submission_id]


def test_a_submission_that_ray_lost(scene: Scene) -> None:
    job = scene.post()
    dispatcher = scene.dispatcher()
    dispatcher.round()
    scene.ray.jobs.clear()
    dispatcher.round()
    assert scene.job(job)["status"] == "queued"
    events = scene.api.client.get(f"/jobs/{job}/events").json()["data"]
    failure = next(e["body"] for e in events if e["body"]["type"] == "attempt.failed")
    assert failure["reason"]["code"] == "submission_lost"


def test_success_without_a_result_is_none(scene: Scene) -> None:
    job = scene.post()
    dispatcher = scene.dispatcher(max_attempts=1)
    dispatcher.round()
    scene.ray.end("SUCCEEDED", exit_code=0)
    dispatcher.round()
    assert scene.job(job)["error"]["code"] == "result_missing"


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


def test_a_ray_that_keeps_refusing(scene: Scene) -> None:
    job, dispatcher = scene.post(), scene.dispatcher(max_attempts=1)
    scene.ray.refuses = True
    for _ in range(REFUSALS - 1):
        dispatcher.round()
    assert scene.job(job)["status"] == "queued"
    dispatcher.round()
    assert scene.job(job)["error"]["code"] == "submission_refused"


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


def _run_out_leases(scene: Scene) -> None:
    """As if their time had passed."""
    with scene.api.services.database.write() as session:
        session.execute(update(Job).values(lease_until=datetime.now(UTC) - timedelta(seconds=1)))


def test_leases_run_out(scene: Scene) -> None:
    job = scene.post()
    first = scene.dispatcher(lease_seconds=600)
    first.round()
    second = scene.dispatcher()
    second._lease = replace(second._lease, owner="another")
    second.round()
    scene.stores_result(job)
    scene.ray.end("SUCCEEDED")
    second.round()
    assert scene.job(job)["status"] == "queued"  # still the first one's
    _run_out_leases(scene)
    second.round()
    assert scene.job(job)["status"] == "succeeded"


def test_who_lost_the_lease_changes_nothing(scene: Scene) -> None:
    job = scene.post()
    first = scene.dispatcher(lease_seconds=600)
    first.round()
    (stale,) = attempts.claim_live(scene.api.services.database, first._lease)
    _run_out_leases(scene)
    second = scene.dispatcher()
    second._lease = replace(second._lease, owner="another")
    second.round()
    with pytest.raises(attempts.LeaseLost):
        attempts.succeed(scene.api.services.database, first._lease, stale, RESULT)
    assert scene.job(job)["status"] == "queued"


def test_the_dead_on_this_machine_are_not_waited_for(scene: Scene) -> None:
    scene.post()
    scene.dispatcher().round()
    with scene.api.services.database.write() as session:
        session.execute(update(Job).values(lease_owner=f"{socket.gethostname()[:60]}/999999@1"))
    dispatcher = scene.dispatcher()
    assert attempts.claim_live(scene.api.services.database, dispatcher._lease) == []
    dispatcher._release_the_dead()
    assert len(attempts.claim_live(scene.api.services.database, dispatcher._lease)) == 1


def test_a_service_that_is_stopped_takes_no_try(scene: Scene) -> None:
    job, dispatcher = scene.post(), scene.dispatcher()
    dispatcher.round()
    dispatcher._interrupt_all()
    assert scene.job(job)["status"] == "queued"
    with scene.api.services.database.read() as session:
        row = session.get(Job, job)
    assert row is not None
    assert (row.tries, row.live) == (0, False)
    dispatcher.round()
    assert scene.ray.submissions[-1].submission_id == f"{job}-2"


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


def test_logs_are_kept(scene: Scene) -> None:
    job, dispatcher = scene.post(), scene.dispatcher()
    dispatcher.round()
    scene.ray.logs[f"{job}-1"] = "first line\nlast line ☃\n"
    scene.ray.end("FAILED", exit_code=1)
    dispatcher.round()
    scene.ray.logs.clear()
    answer = scene.api.client.get(f"/jobs/{job}/logs")
    assert (answer.status_code, answer.text) == (200, "first line\nlast line ☃\n")
    assert scene.api.client.get(f"/jobs/{job}/logs", params={"attempt": 2}).status_code == 404
    followed = scene.api.client.get(f"/jobs/{job}/logs", params={"attempt": 1, "follow": "true"})
    assert followed.text == answer.text


def test_no_log_before_the_first_attempt(scene: Scene) -> None:
    job = scene.post()
    answer = scene.api.client.get(f"/jobs/{job}/logs")
    assert (answer.status_code, answer.text) == (200, "")
    scene.api.client.post(f"/jobs/{job}/cancel")
    assert scene.api.client.get(f"/jobs/{job}/logs", params={"follow": "true"}).text == ""


def test_logs_of_a_ray_that_is_away(scene: Scene) -> None:
    job = scene.post()
    scene.dispatcher().round()  # the API's own client looks where nobody listens
    answer = scene.api.client.get(f"/jobs/{job}/logs")
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "ray_unavailable")
