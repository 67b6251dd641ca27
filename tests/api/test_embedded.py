"""The service with a Ray of its own, as a process: killed, restarted, and stopped."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from api.embedded import EmbeddedRay, start_time
from api.key_file import read_key
from api.submit import RayUnavailable
from pipeline.storage import Store, open_store
from tests.api.bodies import body
from tests.api.conftest import free_port
from tests.api.standin import let_go
from tests.models import tiny_checkpoint

ROOT = Path(__file__).resolve().parents[2]
PATIENCE_SECONDS = 500  # a busy machine needs a part of it


class Service:
    """`python -m api.app` on a state directory."""

    def __init__(self, state: Path) -> None:
        self.state = state
        self.model = state / "models" / "tiny"
        self.port = free_port()
        self.client = httpx.Client(base_url=f"http://127.0.0.1:{self.port}", trust_env=False, timeout=120)
        self.process: subprocess.Popen[bytes] | None = None
        tiny_checkpoint("llama", self.model)

    def start(self) -> None:
        environment = os.environ | {
            "SECATEUR_STATE_DIR": str(self.state),
            "SECATEUR_PORT": str(self.port),
            "SECATEUR_ALLOWED_ROOTS": str(self.state),
            "SECATEUR_DRIVER_MODULE": "tests.api.standin",
            "SECATEUR_POLL_SECONDS": "0.3",
            "SECATEUR_INSPECT_MODELS": "off",
        }
        with (self.state / "api.log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "api.app"], cwd=ROOT, env=environment, stdout=log, stderr=log
            )
        self.until(lambda: self.get("/readyz").get("ready"))
        self.client.headers["Authorization"] = f"Bearer {read_key(self.state)}"

    def end(self, stop: signal.Signals) -> None:
        assert self.process is not None
        self.process.send_signal(stop)
        self.process.wait(300)

    def get(self, path: str) -> dict[str, Any]:
        try:
            found: dict[str, Any] = self.client.get(path).json()
        except httpx.TransportError:
            return {}
        return found

    def post(self, behaviour: str) -> str:
        answer = self.client.post(
            "/jobs", json=body(model=f"file:{self.model}", labels={"standin": behaviour})
        )
        assert answer.status_code == 202, answer.text
        return str(answer.json()["id"])

    def until(self, holds: Callable[[], Any]) -> None:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not holds():
            assert time.monotonic() < deadline, (self.state / "api.log").read_text()[-5000:]
            time.sleep(0.2)

    def reaches(self, job: str, status: str) -> dict[str, Any]:
        self.until(lambda: self.get(f"/jobs/{job}").get("status") == status)
        return self.get(f"/jobs/{job}")

    def store(self) -> Store:
        return open_store(f"file://{self.state}/storage")

    def ray(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.state / "ray.json").read_text())
        return found


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    """A service that is ended, with its Ray, whatever happens."""
    service = Service(tmp_path)
    yield service
    service.client.close()
    if service.process is not None and service.process.poll() is None:
        service.end(signal.SIGTERM)
    if (tmp_path / "ray.json").exists():
        with contextlib.suppress(ProcessLookupError):
            os.kill(service.ray()["pid"], signal.SIGTERM)


@pytest.mark.e2e
def test_killed_restarted_and_stopped(service: Service) -> None:
    service.start()
    first_ray = service.ray()
    assert (service.state / "ray-token").stat().st_mode & 0o777 == 0o600

    # kill -9 of the API in the middle of a job: the next one finds Ray and job
    job = service.post("waiting")
    service.reaches(job, "running")
    service.end(signal.SIGKILL)
    assert start_time(first_ray["pid"]) == first_ray["started"]
    service.start()
    assert service.ray() == first_ray
    let_go(service.store(), job)
    ended = service.reaches(job, "succeeded")
    assert ended["attempt"] == 1
    events = service.get(f"/jobs/{job}/events?limit=1000")["data"]
    finished = [
        event["body"]["result"]["node"] for event in events if event["body"]["type"] == "stage.finished"
    ]
    assert sorted(finished) == sorted(stage["node"] for stage in ended["stages"])

    # kill -9 of Ray's head: it is started again, and the job with it
    job = service.post("waiting")
    service.reaches(job, "running")
    os.kill(first_ray["pid"], signal.SIGKILL)
    let_go(service.store(), job)
    ended = service.reaches(job, "succeeded")
    assert ended["attempt"] in (1, 2)  # a driver may outlive its Ray and store the result
    second_ray = service.ray()
    assert second_ray["pid"] != first_ray["pid"]
    assert not Path(first_ray["temp_dir"]).exists()

    # a good end takes Ray along, and the job waits without having lost a try
    job = service.post("waiting")
    service.reaches(job, "running")
    service.end(signal.SIGTERM)
    assert start_time(second_ray["pid"]) == ""
    assert not Path(second_ray["temp_dir"]).exists()
    assert not (service.state / "ray.json").exists()
    service.start()
    assert service.reaches(job, "succeeded")["attempt"] == 2
    events = service.get(f"/jobs/{job}/events?limit=1000")["data"]
    reasons = [
        event["body"]["reason"]["code"] for event in events if event["body"]["type"] == "attempt.failed"
    ]
    assert reasons == ["service_stopped"]


@pytest.mark.e2e
def test_a_stranger_with_the_same_pid_is_left_alone(tmp_path: Path, embedded_ray: EmbeddedRay) -> None:
    record = {
        "pid": os.getpid(),
        "started": "1",
        "address": embedded_ray.endpoint().address,
        "temp_dir": str(tmp_path / "x"),
    }
    (tmp_path / "ray.json").write_text(json.dumps(record))
    ray = EmbeddedRay(tmp_path)
    with pytest.raises(RayUnavailable, match="not running yet"):
        ray.endpoint()
    ray.give_up()
    with pytest.raises(RayUnavailable, match="did not start"):
        ray.ensure()  # this test is still alive
    ray.stop()


@pytest.mark.e2e
def test_two_find_the_same(embedded_ray: EmbeddedRay) -> None:
    other = EmbeddedRay(embedded_ray.state_dir)
    other.ensure()
    assert other.endpoint() == embedded_ray.endpoint()
