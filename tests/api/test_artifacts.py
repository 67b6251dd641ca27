"""Artifacts, downloads and the report."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from api.settings import Settings
from pipeline.artifacts.artifact import FileRef
from pipeline.artifacts.refs import CheckpointRef, ReportRef
from pipeline.job.events import AttemptStarted, NodePlanned, StageFinished
from pipeline.job.ledger import Measured, NodeResult
from pipeline.storage import CHUNK_BYTES, LocalStore
from tests.api.attempts import FakeDriver, started_job
from tests.api.conftest import RunningApi, running

CONFIG = b'{"model_type": "llama"}'
WEIGHTS = b"0123456789abcdef" * (CHUNK_BYTES // 16 + 1000)
HTML, JSON = b"<!doctype html><p>42", b'{"answer": 42}'


@pytest.fixture
def driver(sqlite_api: RunningApi) -> FakeDriver:
    """A job that has made a checkpoint and a report."""
    driver = started_job(sqlite_api)
    content = sqlite_api.services.content

    def file(path: str, data: bytes) -> FileRef:
        return FileRef(path=path, blob=content.put_bytes(data))

    checkpoint = CheckpointRef(
        files=(file("config.json", CONFIG), file("a folder/weights.safetensors", WEIGHTS), file("empty", b""))
    )
    report = ReportRef(files=(file("report.html", HTML), file("report.json", JSON)))
    nodes = ("prune", "report")
    driver.say(AttemptStarted(nodes=tuple(NodePlanned(node=n, stage=n, needs=()) for n in nodes)))
    for node, made in (("prune", {"checkpoint": checkpoint}), ("report", {"report": report})):
        result = NodeResult(
            node=node, key="0" * 64, cached=False, artifacts=dict(made), measured=Measured(seconds=1)
        )
        assert driver.say(StageFinished(result=result)).status_code == 200
    return driver


def get(driver: FakeDriver, path: str, **given: Any) -> httpx.Response:
    return driver.api.client.get(f"/jobs/{driver.live.job}{path}", **given)


def test_lists_what_was_made(driver: FakeDriver) -> None:
    listed = get(driver, "/artifacts").json()
    assert listed["object"] == "list"
    assert [(a["node"], a["artifact"], a["kind"]) for a in listed["data"]] == [
        ("prune", "checkpoint", "checkpoint"),
        ("report", "report", "report"),
    ]
    checkpoint = listed["data"][0]
    assert checkpoint["size"] == len(CONFIG) + len(WEIGHTS)
    assert [f["path"] for f in checkpoint["files"]] == [
        "config.json",
        "a folder/weights.safetensors",
        "empty",
    ]


def test_every_listed_file_downloads(driver: FakeDriver) -> None:
    contents = {"config.json": CONFIG, "a folder/weights.safetensors": WEIGHTS, "empty": b""}
    for artifact in get(driver, "/artifacts").json()["data"][:1]:
        for file in artifact["files"]:
            answer = driver.api.client.get(file["url"])
            assert answer.content == contents[file["path"]]
            assert answer.headers["content-length"] == str(file["size"])
            assert answer.headers["content-disposition"].startswith("attachment")
            assert answer.headers["etag"] == f'"{file["sha256"]}"'


def test_missing_ones_are_404_with_what_is_there(driver: FakeDriver) -> None:
    answer = get(driver, "/artifacts/prune/checkpoint/nothing")
    assert answer.status_code == 404
    assert answer.json()["error"]["code"] == "file_not_found"
    assert "config.json" in answer.json()["error"]["message"]
    assert get(driver, "/artifacts/prune/keep/x").json()["error"]["code"] == "artifact_not_found"
    assert get(driver, "/artifacts/x/y/../../z").status_code == 404


@pytest.mark.parametrize("where", [100, CHUNK_BYTES + 100], ids=["first chunk", "last chunk"])
def test_an_altered_file_never_arrives_whole(driver: FakeDriver, where: int) -> None:
    content = driver.api.services.content
    store = content.store
    assert isinstance(store, LocalStore)
    files = {f["path"]: f for f in get(driver, "/artifacts").json()["data"][0]["files"]}
    weights = files["a folder/weights.safetensors"]
    path = next(Path(store.root).rglob(weights["sha256"]))
    with path.open("r+b") as file:
        file.seek(where)
        file.write(b"!")
    with pytest.raises(httpx.RemoteProtocolError):
        driver.api.client.get(weights["url"])
    with path.open("r+b") as file:
        file.truncate(where)
    cut = driver.api.client.get(weights["url"])
    assert (cut.status_code, cut.json()["error"]["code"]) == (500, "corrupt_object")
    path.unlink()
    assert driver.api.client.get(weights["url"]).json()["error"]["code"] == "object_not_found"


def test_report_as_json_and_as_page(driver: FakeDriver) -> None:
    assert get(driver, "/report").content == JSON
    page = get(driver, "/report", headers={"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"})
    assert (page.content, page.headers["content-type"]) == (HTML, "text/html; charset=utf-8")
    assert get(driver, "/report", params={"format": "html"}).content == HTML
    both = get(driver, "/report", headers={"Accept": "text/html;q=0.5, application/json"})
    assert both.content == JSON
    assert get(driver, "/report", headers={"Accept": "text/html;q=x"}).content == JSON


def test_no_report_yet(sqlite_api: RunningApi) -> None:
    driver = started_job(sqlite_api)
    answer = get(driver, "/report")
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "report_not_ready")
    assert get(driver, "/artifacts").json()["data"] == []


def test_s3_hands_out_files_itself(seaweedfs_server: Any, make_settings: Callable[..., Settings]) -> None:
    seaweedfs_server.make_bucket("api")
    settings = make_settings(
        storage_url="s3://api/prefix",
        s3=seaweedfs_server.options,
    )
    with running(settings) as api:
        driver = started_job(api)
        blob = api.services.content.put_bytes(CONFIG)
        artifacts = {"checkpoint": CheckpointRef(files=(FileRef(path="config.json", blob=blob),))}
        result = NodeResult(
            node="prune", key="0" * 64, cached=False, artifacts=dict(artifacts), measured=Measured(seconds=1)
        )
        driver.say(StageFinished(result=result))
        answer = get(driver, "/artifacts/prune/checkpoint/config.json")
        assert answer.status_code == 307
        assert httpx.get(answer.headers["location"], trust_env=False).content == CONFIG
        ready = api.client.get("/readyz").json()
        assert {"name": "storage", "ok": True, "error": None} in ready["checks"]
