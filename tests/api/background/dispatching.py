"""A Ray of our own making, and an API whose dispatcher moves only when the test says so."""

from collections.abc import Callable, Collection
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, cast

from sqlalchemy import update

from api.background.dispatcher import Dispatcher
from api.db.models import Job
from api.settings import Settings
from api.submit import RayJob, RayJobsClient, RayRefused, RayStatus, RayUnavailable, Submission
from pipeline.job.ledger import JobResult, Measured, NodeResult, WorkOrder, job_result_key, order_key
from tests.api.attempts import event
from tests.api.bodies import body
from tests.api.conftest import RunningApi

RESULT = JobResult(
    nodes=(NodeResult(node="prune", key="0" * 64, cached=True, artifacts={}, measured=Measured(seconds=1)),)
)


@dataclass
class FakeRay:
    """Keeps submissions and says what the test wants."""

    jobs: dict[str, RayJob] = field(default_factory=dict)
    submissions: list[Submission] = field(default_factory=list)
    stopped: list[str] = field(default_factory=list)
    logs: dict[str, str] = field(default_factory=dict)
    away: bool = False
    refuses: int | None = None  # the HTTP status with which it refuses submissions
    delay: Callable[[], None] = lambda: None  # what every answer takes
    dies_after_submit: bool = False
    asked: int = 0

    def submit(self, submission: Submission) -> None:
        self._answer()
        if self.refuses is not None:
            raise RayRefused("no agent", status=self.refuses)
        assert submission.submission_id not in self.jobs, "submitted twice"
        self.submissions.append(submission)
        self.jobs[submission.submission_id] = RayJob(status="PENDING")
        if self.dies_after_submit:
            raise SystemExit("kill -9")

    def find(self, submission_id: str) -> RayJob | None:
        self._answer()
        return self.jobs.get(submission_id)

    def found(self, submission_ids: Collection[str]) -> dict[str, RayJob]:
        self._answer()
        return {one: self.jobs[one] for one in submission_ids if one in self.jobs}

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
        self.asked += 1
        self.delay()
        if self.away:
            raise RayUnavailable("Ray is away")


@dataclass
class Scene:
    """An API whose dispatcher moves only when the test says so."""

    api: RunningApi
    ray: FakeRay
    settings: Settings
    now: datetime = field(default_factory=lambda: datetime.now(UTC))
    seconds: float = 0  # of the clock that measures rounds

    def dispatcher(self, *, owner: str = "one", **changes: Any) -> Dispatcher:
        """One more dispatcher, whose leases last until the test ends them, and whose clock the test moves."""
        settings = self.settings.model_copy(update={"lease_seconds": 600, **changes})
        services = replace(
            self.api.services, ray=cast(RayJobsClient, self.ray), settings=settings, now=lambda: self.now
        )
        return Dispatcher(services, owner=owner, clock=lambda: self.seconds)

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
