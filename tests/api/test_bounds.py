"""Whatever is sent, the service answers soon, in bounded memory, and says what to change."""

import json
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from api.middleware import MAX_VALUES
from pipeline.resolve.model import CONFIG_BYTES
from pipeline.resolve.resolve import resolve
from pipeline.sources.access import SourceAccess
from tests.api.bodies import body
from tests.api.conftest import RunningApi, running
from tests.models import tiny_checkpoint

pytestmark = pytest.mark.servers


@pytest.fixture(scope="module")
def resolving(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[RunningApi, Path]]:
    """An API that resolves sources, and a checkpoint that it may read."""
    from functools import partial

    from api.settings import Settings
    from tests.ports import free_port

    root = tmp_path_factory.mktemp("bounds")
    tiny_checkpoint("llama", root / "model")
    settings = Settings(
        state_dir=root / "state", port=free_port(), ray_address="http://127.0.0.1:9", inspect_models="off"
    )
    with running(settings, resolver=partial(resolve, access=SourceAccess(allowed_roots=(root,)))) as api:
        yield api, root / "model"


def magnitude(model: Path) -> dict[str, object]:
    """A request that needs the model alone."""
    return {
        "spec": {
            "model": {"source": f"file:{model}"},
            "prune": {
                "method": {"kind": "magnitude"},
                "allocation": {"kind": "uniform"},
                "pattern": {"kind": "unstructured", "sparsity": 0.5},
            },
            "evaluation": {"perplexity": []},
        }
    }


@pytest.mark.parametrize(
    "field", ["num_hidden_layers", "hidden_size", "vocab_size", "intermediate_size", "num_attention_heads"]
)
def test_sizes_that_no_model_has_are_refused(resolving: tuple[RunningApi, Path], field: str) -> None:
    api, model = resolving
    config = json.loads((model / "config.json").read_text())
    kept = (model / "config.json").read_text()
    try:
        (model / "config.json").write_text(json.dumps(config | {field: 10**9}))
        for path in ("/plans", "/jobs"):
            answer = api.client.post(path, json=magnitude(model))
            assert answer.status_code == 422, answer.text
            assert field in answer.json()["error"]["message"]
    finally:
        (model / "config.json").write_text(kept)


def test_a_large_config_is_refused(resolving: tuple[RunningApi, Path]) -> None:
    api, model = resolving
    kept = (model / "config.json").read_text()
    try:
        (model / "config.json").write_text(kept + " " * CONFIG_BYTES)
        answer = api.client.post("/jobs", json=magnitude(model))
        assert (answer.status_code, str(CONFIG_BYTES) in answer.text) == (422, True)
    finally:
        (model / "config.json").write_text(kept)


def test_many_wrong_values_are_not_checked_one_by_one(shared_api: RunningApi) -> None:
    request = body()
    request["spec"]["target"] = [1] * (MAX_VALUES + 2)
    answer = shared_api.client.post("/jobs", json=request)
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "body_too_large")
    request["spec"]["target"] = [1] * 1000
    answer = shared_api.client.post("/jobs", json=request)
    assert answer.status_code == 422
    assert len(answer.text) < 5000
    assert "995 more" in answer.text


def test_a_body_from_nobody_is_not_read(shared_api: RunningApi) -> None:
    """The answer comes before the body was sent."""
    host, port = shared_api.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=60) as connection:
        connection.sendall(
            b"POST /jobs HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            b"Content-Length: 1000\r\n\r\n{"
        )
        answer = b"".join(iter(lambda: connection.recv(4096), b""))  # until the service closes
    assert answer.startswith(b"HTTP/1.1 401 ")
    assert b"key_missing" in answer


@pytest.mark.parametrize(
    "sent",
    [
        b'{"spec": NaN}',
        b"[" * 100_000,
        b'{"a":' * 50_000,
        b'{"name": "\\ud800", "spec": {}}',
        b'{"spec": {"model": {"source": "file:/' + b"x/" * 100_000 + b'"}}}',
        b'{"priority": ' + b"9" * 5000 + b"}",
        b'{"priority": 1e999}',
    ],
    ids=["nan", "deep lists", "deep objects", "surrogate", "long path", "long number", "infinity"],
)
def test_strange_bodies_are_the_senders_fault(shared_api: RunningApi, sent: bytes) -> None:
    for path in ("/jobs", "/plans", "/schedules"):
        answer = shared_api.client.post(path, content=sent, headers={"Content-Type": "application/json"})
        assert answer.status_code in (400, 422), answer.text[:300]
        assert set(answer.json()["error"]) >= {"code", "message", "param", "type"}
        assert len(answer.content) < 20_000
