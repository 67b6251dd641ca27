"""What an attacker on the network, or another user of the machine, must not see."""

import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from api.db.engine import Database
from api.db.migrate import upgrade
from api.settings import Settings
from pipeline.job.ledger import WorkOrder, order_key
from tests.api.background.dispatching import Scene
from tests.api.bodies import body
from tests.api.conftest import RunningApi, running

pytestmark = pytest.mark.servers


def test_no_answer_is_guessed_at(shared_api: RunningApi) -> None:
    for path in ("/jobs", "/healthz", "/metrics", "/", "/nothing", "/keys", "/openapi.json"):
        assert shared_api.client.get(path).headers["X-Content-Type-Options"] == "nosniff", path


def test_a_key_that_is_shown_is_not_kept(sqlite_api: RunningApi) -> None:
    answer = sqlite_api.client.post("/keys", json={"name": "x", "role": "viewer"})
    assert answer.status_code == 201
    assert answer.headers["Cache-Control"] == "no-store"
    signed_in = sqlite_api.anonymous.post("/session", json={"key": answer.json()["key"]})
    assert signed_in.headers["Cache-Control"] == "no-store"


def test_no_redirect_follows_the_host_header(shared_api: RunningApi) -> None:
    answer = shared_api.client.get("/jobs/", headers={"Host": "evil.example"})
    assert answer.status_code == 404
    assert "location" not in answer.headers


def test_a_password_in_a_source_is_not_repeated(shared_api: RunningApi) -> None:
    request = body()
    for source in ("s3://user:hunter2@bucket/model", "https://user:hunter2@host/x", "s3://hunter2@bucket/x"):
        request["spec"]["model"]["source"] = source
        answer = shared_api.client.post("/jobs", json=request)
        assert answer.status_code == 422
        assert "hunter2" not in answer.text, source


@pytest.mark.parametrize("probes", ["open", "keys"])
def test_probes(make_settings: Callable[..., Settings], probes: str) -> None:
    with running(make_settings(probes=probes)) as api:
        metrics, ready = api.anonymous.get("/metrics"), api.anonymous.get("/readyz")
        assert api.client.get("/metrics").status_code == 200
        assert "127.0.0.1:9" in api.client.get("/readyz").text  # the Ray that does not answer
    assert ready.status_code == 503
    if probes == "open":
        assert (metrics.status_code, "127.0.0.1:9" in ready.text) == (200, True)
    else:
        assert (metrics.status_code, "127.0.0.1:9" in ready.text) == (401, False)
        assert {check["name"]: check["ok"] for check in ready.json()["checks"]}["ray"] is False


def test_other_users_of_the_machine_read_neither_database_nor_orders(scene: Scene, tmp_path: Path) -> None:
    job = scene.post()
    scene.dispatcher().round()
    order = scene.order()
    assert isinstance(order, WorkOrder)
    root = scene.api.services.content.store.root  # type: ignore[attr-defined]
    assert stat.S_IMODE((root / order_key(job, 1)).stat().st_mode) & stat.S_IRWXO == 0
    path = tmp_path / "mine.db"
    database = Database(f"sqlite:///{path}")
    upgrade(database)
    with database.engine.connect():
        files = [path, *tmp_path.glob("mine.db-*")]
        assert [stat.S_IMODE(file.stat().st_mode) for file in files] == [0o600] * len(files)
    database.close()


@pytest.fixture
def scene(make_settings: Callable[..., Settings]) -> object:
    from tests.api.background.dispatching import FakeRay

    settings = make_settings(max_running_jobs=1)
    with running(settings) as api:
        yield Scene(api, FakeRay(), settings)
