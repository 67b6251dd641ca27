"""A driver that follows the protocol without any work: it reads its order, reports events, stores a result.

The label `standin` sets its behaviour: `silent` never reaches the API, `waiting` waits until `let_go` and
`killed` dies by SIGKILL (both only in the first attempt), `failing` gives up with an error that another
attempt may avoid, `refused` with one that stays, and `empty` ends well without a result.
"""

import argparse
import os
import signal
import sys
import time
from datetime import UTC, datetime

import httpx

from api.settings import Settings
from pipeline.artifacts.artifact import FileRef
from pipeline.artifacts.refs import ReportRef
from pipeline.dag.plan import plan
from pipeline.job.events import (
    AttemptFailed,
    AttemptFinished,
    AttemptStarted,
    DriverEvent,
    EventBody,
    FailureReason,
    NodePlanned,
    StageFinished,
    StageProgress,
    StageStarted,
)
from pipeline.job.ledger import JobResult, Measured, NodeResult, WorkOrder, job_result_key, order_key
from pipeline.storage import ContentStore, Store

HTML = b"<!doctype html><title>report</title>"
JSON = b'{"report":true}'
WAIT_SECONDS = 300


def let_go(store: Store, job: str) -> None:
    """Let the first attempt of a job that is `waiting` continue."""
    store.put(go_key(job), [b""])


def go_key(job: str) -> str:
    return f"standin/{job}"


class StandIn:
    """One attempt."""

    def __init__(self, order: WorkOrder, content: ContentStore) -> None:
        self.order = order
        self.content = content
        self.behaviour = order.request.labels.get("standin", "")
        self.sequence = 0

    def run(self) -> int:
        """Run the attempt, and return the exit code."""
        sys.stdout.write(f"the stand-in works on attempt {self.order.attempt}\n")
        sys.stdout.flush()
        nodes = plan(self.order.request.spec, self.order.pins).nodes
        self.say(
            AttemptStarted(nodes=tuple(NodePlanned(node=n.id, stage=n.stage.kind, needs=()) for n in nodes))
        )
        results = []
        for node in nodes:
            self.say(StageStarted(node=node.id, key="0" * 64))
            self.say(StageProgress(node=node.id, done=1, total=2, unit=node.stage.unit))
            if node.id == "prune":
                self.misbehave()
            if self.behaviour in ("failing", "refused") and node.id == "prune":
                reason = FailureReason(
                    code="worker_lost", message="no luck", node="prune", retryable=self.behaviour == "failing"
                )
                self.say(AttemptFailed(reason=reason))
                return 1
            artifacts = {"report": self.report()} if node.id == "report" else {}
            result = NodeResult(
                node=node.id, key="0" * 64, cached=False, artifacts=artifacts, measured=Measured(seconds=0.1)
            )
            results.append(result)
            self.say(StageFinished(result=result))
        if self.behaviour != "empty":
            self.content.put_model(job_result_key(self.order.job), JobResult(nodes=tuple(results)))
        self.say(AttemptFinished())
        sys.stdout.write("the stand-in is done\n")
        return 0

    def misbehave(self) -> None:
        if self.order.attempt > 1:
            return
        if self.behaviour == "waiting":
            deadline = time.monotonic() + WAIT_SECONDS  # a driver that no test ends must not run for ever
            while self.content.store.stat(go_key(self.order.job)) is None and time.monotonic() < deadline:
                time.sleep(0.1)
        if self.behaviour == "killed":
            os.kill(os.getpid(), signal.SIGKILL)

    def report(self) -> ReportRef:
        files = (("report.html", HTML), ("report.json", JSON))
        return ReportRef(files=tuple(FileRef(path=p, blob=self.content.put_bytes(data)) for p, data in files))

    def say(self, body: EventBody) -> None:
        if self.behaviour == "silent":
            return
        self.sequence += 1
        event = DriverEvent(sequence=self.sequence, at=datetime.now(UTC), body=body)
        url = f"{self.order.report_to}/internal/attempts/{self.order.job}/{self.order.attempt}/events"
        headers = {"Authorization": f"Bearer {self.order.token}"}
        for _ in range(100):
            try:
                answer = httpx.post(url, json={"events": [event.model_dump(mode="json")]}, headers=headers)
            except httpx.HTTPError:
                time.sleep(0.3)
                continue
            if answer.status_code >= 500:  # a busy machine; drivers try again too
                time.sleep(0.3)
                continue
            assert answer.status_code == 200, answer.text
            return
        raise AssertionError("the API stays away")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--job", required=True)
    parser.add_argument("--attempt", required=True, type=int)
    arguments = parser.parse_args()
    settings = Settings()
    content = settings.content()
    order = content.get_model(order_key(arguments.job, arguments.attempt), WorkOrder)
    sys.exit(StandIn(order, content).run())


if __name__ == "__main__":
    main()
