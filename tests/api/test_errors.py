"""Bad input is answered in one shape, with field and remedy, and never with a 5xx."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from api.settings import Settings
from pipeline.errors import SourceUnreachable
from pipeline.request.prune_spec import PruneSpec
from pipeline.sources.pins import Pins
from tests import bad_checkpoints
from tests.api.bodies import body
from tests.api.conftest import RunningApi, running
from tests.models import VOCABULARY, tiny_checkpoint


def with_prune(**prune: Any) -> dict[str, Any]:
    made = body()
    made["spec"]["prune"] |= prune
    return made


def with_recovery(resources: dict[str, Any] | None = None, **recovery: Any) -> dict[str, Any]:
    made = body(resources=resources or {})
    text = {"source": "file:/texts/wiki.txt", "sequence_length": 32}
    made["spec"]["recovery"] = {"text": text, "steps": 100, **recovery}
    return made


def refused(api: RunningApi, sent: object, *, path: str = "/jobs") -> dict[str, Any]:
    answer = api.client.post(path, json=sent)
    assert answer.status_code == 422, answer.text
    error: dict[str, Any] = answer.json()["error"]
    assert set(error) == {"code", "message", "param", "type"}
    assert error["type"] == "invalid_request_error"
    return error


CASES: list[tuple[str, dict[str, Any], str, list[str]]] = [
    (
        "unknown method",
        with_prune(method={"kind": "wnda"}),
        "spec.prune.method.kind",
        ['"wnda"', "did you mean 'wanda'?", "magnitude"],
    ),
    ("no kind", with_prune(method={}), "spec.prune.method.kind", ["missing", "wanda", "magnitude"]),
    (
        "too sparse",
        with_prune(pattern={"kind": "unstructured", "sparsity": 1.2}),
        "spec.prune.pattern.sparsity",
        ["less than 1", "1.2"],
    ),
    (
        "keeps too many",
        with_prune(pattern={"kind": "nm", "keep": 5, "group": 4}),
        "spec.prune.pattern",
        ["NM(5,4)", "must be below group"],
    ),
    (
        "unknown field",
        with_prune(pattern={"kind": "nm", "keep": 2, "group": 4, "sparsty": 1}),
        "spec.prune.pattern.sparsty",
        ["not a known field", "allowed here", "keep", "group"],
    ),
    (
        "near miss",
        with_prune(patern={}),
        "spec.prune.patern",
        ["not a known field", "did you mean 'pattern'?"],
    ),
    (
        "unknown word",
        with_prune(propagation="prund"),
        "spec.prune.propagation",
        ["did you mean 'pruned'?", "dense"],
    ),
    ("missing", {"spec": {"model": {"source": "file:/x"}, "prune": {}}}, "spec.prune.method", ["missing"]),
    ("no scheme", body(model="llama"), "spec.model.source", ["file:", "s3://", "hub:"]),
    (
        "no calibration",
        with_prune(method={"kind": "wanda"}),
        "spec",
        ["calibration is missing", "wanda"],
    ),
    (
        "batch sizes that do not multiply",
        with_recovery({"workers": 3, "recovery": {"micro_batch_size": 2}}, global_batch_size=16),
        "spec.recovery.global_batch_size",
        ["no multiple of micro_batch_size 2 · 3 workers", "use 12 or 18"],
    ),
    (
        "an offload that the stage cannot do",
        with_recovery({"recovery": {"zero_stage": 2, "offload": {"parameters": True}}}),
        "resources.recovery.offload.parameters",
        ["zero_stage 3"],
    ),
    (
        "no such stage",
        with_recovery({"recovery": {"zero_stage": 4}}),
        "resources.recovery.zero_stage",
        ["got 4", "1, 2, 3"],
    ),
    ("endless training", with_recovery(steps=None), "spec.recovery", ["tokens or steps"]),
    ("nothing asked", {"spec": {"model": {"source": "file:/x"}}}, "spec", ["prune", "recovery"]),
    ("bad label", body(labels={"a b": "c"}), "labels.a b.[key]", ["match"]),
    ("nothing", {}, "spec", ["missing"]),
    ("a list", [], "", ["body"]),
]


@pytest.mark.parametrize("path", ["/jobs", "/plans"])
@pytest.mark.parametrize(("sent", "param", "words"), [case[1:] for case in CASES], ids=[c[0] for c in CASES])
def test_names_field_and_remedy(
    shared_api: RunningApi, path: str, sent: object, param: str, words: list[str]
) -> None:
    error = refused(shared_api, sent, path=path)
    assert error["code"] == "invalid_spec"
    assert (error["param"] or "") == param
    for word in words:
        assert word in error["message"]


def test_tells_all_mistakes_at_once(shared_api: RunningApi) -> None:
    error = refused(shared_api, with_prune(method={"kind": "x"}, patern={}))
    assert len(error["message"].splitlines()) == 2


@pytest.mark.parametrize(
    ("content", "status", "code"),
    [
        (b"{", 400, "malformed_json"),
        (b"", 422, "invalid_spec"),
        (b"\xff\xfe\x00", 400, "malformed_request"),
        (b'{"spec": ' + b"[" * 100_000, 400, "malformed_request"),
        (b'{"spec": ' + b"9" * 5000 + b"}", 400, "malformed_request"),
        (b'{"name": "\\ud800"}', 422, "invalid_spec"),
        (b'{"spec": {}, "\\ud800": 1}', 422, "invalid_spec"),
        (b'{"priority": 1e999}', 422, "invalid_spec"),
        (b"null", 422, "invalid_spec"),
    ],
)
def test_malformed_bodies(shared_api: RunningApi, content: bytes, status: int, code: str) -> None:
    headers = {"Content-Type": "application/json"}
    answer = shared_api.client.post("/jobs", content=content, headers=headers)
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code), answer.text


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
@pytest.mark.parametrize("where", ["sparsity", "gpus_per_worker", "multiplier", "spread"])
def test_numbers_that_are_none(shared_api: RunningApi, number: str, where: str) -> None:
    sent = with_prune(
        pattern={"kind": "unstructured", "sparsity": 0.5},
        allocation={"kind": "owl", "multiplier": 5, "spread": 0.05},
    )
    sent["resources"] = {"gpus_per_worker": 0}
    sent["spec"]["calibration"] = {"source": "file:/texts/c4.txt"}
    text = json.dumps(sent)
    values = {"sparsity": "0.5", "gpus_per_worker": "0", "multiplier": "5", "spread": "0.05"}
    text = text.replace(f'"{where}": {values[where]}', f'"{where}": {number}')
    answer = shared_api.client.post("/jobs", content=text, headers={"Content-Type": "application/json"})
    assert answer.status_code in (400, 422), answer.text


def test_wrong_content_type_teaches(shared_api: RunningApi) -> None:
    answer = shared_api.client.post("/jobs", data={"spec": "x"})
    assert answer.status_code == 415
    assert "application/json" in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/nothing", 404, "not_found"),
        ("DELETE", "/jobs", 405, "method_not_allowed"),
        ("BREW", "/jobs", 405, "method_not_allowed"),
        ("GET", "/jobs/%ff%fe", 404, "job_not_found"),
        ("GET", "/jobs/../../etc/passwd", 404, "not_found"),
    ],
)
def test_other_refusals_have_the_shape(
    shared_api: RunningApi, method: str, path: str, status: int, code: str
) -> None:
    answer = shared_api.client.request(method, path)
    assert answer.status_code == status
    assert answer.json()["error"]["code"] == code


def stream(size: int) -> Iterator[bytes]:
    yield b'{"name": "'
    for _ in range(size // 65536):
        yield b"x" * 65536


@pytest.mark.parametrize("declared", [True, False], ids=["content-length", "chunked"])
def test_a_hundred_megabytes_are_refused_while_they_come(shared_api: RunningApi, declared: bool) -> None:
    size = 100 * 2**20
    headers = {"Content-Type": "application/json"} | ({"Content-Length": str(size)} if declared else {})
    sent = 0

    def counted() -> Iterator[bytes]:
        nonlocal sent
        for chunk in stream(size):
            sent += len(chunk)
            yield chunk

    try:
        answer = shared_api.client.post("/jobs", content=counted(), headers=headers)
    except httpx.TransportError:  # the answer came while we were still sending, and the connection ended
        pass
    else:
        assert (answer.status_code, answer.json()["error"]["code"]) == (413, "body_too_large")
    assert sent < 20 * 2**20
    assert shared_api.client.get("/healthz").status_code == 200


def test_a_body_just_over_the_limit(shared_api: RunningApi) -> None:
    for content in (b"x" * (2**20 + 1), stream(2**20 + 65536)):
        answer = shared_api.client.post(
            "/jobs", content=content, headers={"Content-Type": "application/json"}
        )
        assert (answer.status_code, answer.json()["error"]["code"]) == (413, "body_too_large")


@pytest.mark.servers
def test_sources_out_of_reach_are_the_requests_fault(make_settings: Callable[..., Settings]) -> None:
    def resolver(spec: PruneSpec) -> Pins:
        raise SourceUnreachable("bucket x does not answer", "spec.model.source")

    with running(make_settings(), resolver=resolver) as api:
        error = refused(api, body())
        assert (error["code"], error["param"]) == ("source_unreachable", "spec.model.source")
        assert api.client.get("/jobs").json()["data"] == []


@pytest.mark.servers
def test_teacher_and_text_are_looked_at(make_settings: Callable[..., Settings], tmp_path: Path) -> None:
    """By their real files: what a spec alone cannot tell."""
    model = tiny_checkpoint("llama", tmp_path / "model")
    teacher = bad_checkpoints.untied(tmp_path / "teacher", vocab_size=VOCABULARY + 64)
    text = tmp_path / "text.txt"
    text.write_text("word " * 2000)

    def asked(**recovery: Any) -> dict[str, Any]:
        sent = with_recovery(**{"global_batch_size": 4, **recovery})
        sent["spec"]["model"] = {"source": f"file:{model}"}
        sent["spec"]["recovery"]["text"]["source"] = f"file:{text}"
        return sent

    with running(make_settings(allowed_roots=(tmp_path,)), resolver=None) as api:
        taught = {"kind": "distillation", "teacher": {"source": f"file:{teacher}"}}
        error = refused(api, asked(objective=taught))
        assert error["param"] == "spec.recovery.objective.teacher.source"
        assert f"vocabulary of {VOCABULARY + 64}" in error["message"]
        error = refused(api, asked(global_batch_size=64))
        assert (error["code"], error["param"]) == ("text_too_short", "spec.recovery.text.epochs")
        assert "10000 bytes" in error["message"]
        error = refused(api, asked(trains={"kind": "lora", "linears": ["q_prj"]}))
        assert error["param"] == "spec.recovery.trains.linears.0"
        assert "did you mean" in error["message"]
        assert api.client.get("/jobs").json()["data"] == []


@pytest.mark.servers
def test_what_nobody_foresaw_is_logged_and_not_told(
    make_settings: Callable[..., Settings], caplog: pytest.LogCaptureFixture
) -> None:
    def resolver(spec: PruneSpec) -> Pins:
        raise RuntimeError("the secret is 42")

    with running(make_settings(), resolver=resolver) as api:
        answer = api.client.post("/jobs", json=body(), headers={"X-Request-Id": "abc-1"})
        assert answer.status_code == 500
        assert answer.json()["error"]["code"] == "internal_error"
        assert answer.headers["X-Request-Id"] == "abc-1"
        assert "secret" not in answer.text
    assert "the secret is 42" in caplog.text


@pytest.mark.servers
def test_a_database_that_is_away_is_503(make_settings: Callable[..., Settings]) -> None:
    with running(make_settings()) as api:
        path = Path(str(api.services.database.engine.url.database))
        api.services.database.close()
        path.rename(path.with_suffix(".away"))
        path.mkdir()
        answer = api.client.get("/jobs")
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "database_unavailable")
