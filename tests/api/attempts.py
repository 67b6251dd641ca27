"""An attempt without Ray: the calls of the dispatcher, and the events that the driver reports."""

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import httpx

from api.auth import new_token, token_digest
from api.service.context import Services
from api.service.jobs import attempts, leases
from api.service.jobs.leases import Asked, Lease, LiveAttempt, request_of
from pipeline.job.events import EventBody
from tests.api.bodies import body
from tests.api.conftest import RunningApi

LEASE = Lease(owner="tests", seconds=60)


@dataclass
class FakeDriver:
    """A driver that reports the events of one attempt."""

    api: RunningApi
    live: LiveAttempt
    token: str
    sequence: int = field(default=0)

    @property
    def asked(self) -> Asked:
        """What the attempt shall do."""
        return request_of(self.api.services.database, self.live)

    def say(self, *bodies: EventBody) -> httpx.Response:
        """Report the next events."""
        events = []
        for told in bodies:
            self.sequence += 1
            events.append(event(self.sequence, told))
        return self.post(events)

    def post(self, events: list[dict[str, Any]], *, token: str | None = None) -> httpx.Response:
        """Report any events."""
        given = self.token if token is None else token
        headers = {"Authorization": f"Bearer {given}"} if given else {}
        path = f"/internal/attempts/{self.live.job}/{self.live.number}/events"
        return self.api.anonymous.post(path, json={"events": events}, headers=headers)


def event(sequence: int, told: EventBody, *, at: str | None = None) -> dict[str, Any]:
    """A driver event as JSON."""
    moment = at or datetime.now(UTC).isoformat()
    return {"sequence": sequence, "at": moment, "body": told.model_dump(mode="json")}


def started_job(api: RunningApi, **given: Any) -> FakeDriver:
    """A job with an attempt that Ray seems to run."""
    answer = api.client.post("/jobs", json=body(**given))
    assert answer.status_code == 202, answer.text
    return next_attempt(api)


def next_attempt(api: RunningApi) -> FakeDriver:
    """The next attempt of the job that waits."""
    services: Services = api.services
    assert leases.open_next(services.database, LEASE, limit=100, unread={})
    live = leases.claim_live(services.database, LEASE)[-1]
    token = new_token()
    attempts.set_token(services.database, LEASE, live, digest=token_digest(token))
    attempts.mark_submitted(services.database, LEASE, live)
    return FakeDriver(api, live, token)
