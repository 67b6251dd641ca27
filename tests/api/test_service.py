"""Plans, health, metrics, the schema, the settings, and what documentation says of them."""

import json
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import jsonschema
import pytest

from api.docs import ROOT, pages
from api.examples import REQUEST_EXAMPLES
from api.settings import Settings
from pipeline.artifacts.artifact import FileRef
from pipeline.artifacts.refs import CheckpointRef
from pipeline.dag.plan import plan
from pipeline.dag.stages import stage_key
from pipeline.job.ledger import Measured, StageResult, stage_result_key
from pipeline.request.prune_spec import JobRequest
from pipeline.storage import S3Options
from tests.api.bodies import body
from tests.api.conftest import RunningApi, running
from tests.made_pins import made_pins


def test_plan_says_what_is_stored(sqlite_api: RunningApi) -> None:
    sent = body(resources={"workers": 999})
    fresh = sqlite_api.client.post("/plans", json=sent).json()
    assert fresh["object"] == "plan"
    assert [node["node"] for node in fresh["nodes"]][:3] == ["import_model", "allocate", "prune"]
    assert not any(node["cached"] for node in fresh["nodes"])
    assert [node["key"] is not None for node in fresh["nodes"]][:2] == [True, False]
    assert fresh["inputs"] == [
        {"param": "spec.model.source", "source": sent["spec"]["model"]["source"], "size": 7, "files": 1}
    ]
    assert fresh["bytes"] == 7
    assert any("perplexity is empty" in warning for warning in fresh["warnings"])

    spec = JobRequest.model_validate(sent).spec
    stage = plan(spec, made_pins(spec)).nodes[0].stage
    content = sqlite_api.services.content
    checkpoint = CheckpointRef(files=(FileRef(path="config.json", blob=content.put_bytes(b"{}")),))
    result = StageResult(
        kind=stage.kind,
        version=stage.version,
        key=stage_key(stage, {}),
        artifacts={"checkpoint": checkpoint},
        measured=Measured(seconds=1),
        made_at=datetime.now(UTC),
    )
    content.put_model(stage_result_key(result.key), result)
    known = sqlite_api.client.post("/plans", json=sent).json()
    assert [(n["cached"], n["key"] is not None) for n in known["nodes"]][:3] == [
        (True, True),
        (False, True),
        (False, False),
    ]
    assert sqlite_api.client.get("/jobs").json()["data"] == []


@pytest.mark.servers
def test_plan_warns_of_more_cpus_than_there_are(make_settings: Callable[..., Settings]) -> None:
    with running(make_settings(ray_address=None, ray_num_cpus=2)) as api:
        planned = api.client.post("/plans", json=body(resources={"workers": 3})).json()
    assert any("this machine has 2" in warning for warning in planned["warnings"])


def test_health(api: RunningApi) -> None:
    assert api.client.get("/healthz").json() == {"status": "ok"}
    answer = api.client.get("/readyz")
    checks = {check["name"]: check for check in answer.json()["checks"]}
    assert answer.status_code == 503  # nobody listens where Ray should be
    assert checks["database"]["ok"]
    assert checks["storage"]["ok"]
    assert "127.0.0.1:9" in checks["ray"]["error"]


@pytest.mark.servers
def test_storage_that_cannot_be_written_is_not_ready(make_settings: Callable[..., Settings]) -> None:
    with running(make_settings(storage_url="file:///dev/null/storage")) as api:
        checks = {check["name"]: check for check in api.client.get("/readyz").json()["checks"]}
    assert not checks["storage"]["ok"]
    assert "/dev/null" in checks["storage"]["error"]


def test_metrics(api: RunningApi) -> None:
    api.client.post("/jobs", json=body())
    api.client.get("/nowhere/at/all")
    answer = api.client.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain")
    assert 'secateur_jobs{status="queued"} 1.0' in answer.text
    assert 'secateur_http_requests_total{method="POST",route="/jobs",status="202"} 1.0' in answer.text
    assert 'route="unmatched",status="404"' in answer.text


def test_schema_takes_the_examples(shared_api: RunningApi) -> None:
    schema = shared_api.client.get("/schema/prune-spec").json()
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(schema)
    for example in REQUEST_EXAMPLES.values():
        validator.validate(example["value"])
    assert not validator.is_valid(body(colour="red"))


@pytest.mark.parametrize("name", pages())
def test_documentation_is_fresh(name: str) -> None:
    assert (ROOT / name).read_text() == pages()[name], "run `python -m api.docs`"


def test_openapi_names_every_route(shared_api: RunningApi) -> None:
    described = shared_api.client.get("/openapi.json").json()
    text = json.dumps(described, indent=1, sort_keys=True, ensure_ascii=False) + "\n"
    assert text == pages()["docs/openapi.json"]
    for path in ("/jobs", "/jobs/{id}", "/jobs/{id}/events", "/plans", "/readyz", "/schema/prune-spec"):
        assert path in described["paths"]
    examples = described["paths"]["/jobs"]["post"]["requestBody"]["content"]["application/json"]["examples"]
    assert set(examples) == set(REQUEST_EXAMPLES)


def test_importing_the_app_is_light() -> None:
    code = (
        "import sys, api.app\n"
        "heavy = {'ray', 'torch', 'transformers', 'datasets', 'deepspeed', 'lm_eval', 'boto3'}\n"
        "sys.exit(', '.join(sorted(heavy & set(sys.modules))) or None)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_settings_come_from_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SECATEUR_STATE_DIR", str(tmp_path))
    monkeypatch.setenv("SECATEUR_ALLOWED_ROOTS", "/models:/texts")
    monkeypatch.setenv("SECATEUR_S3_ACCESS_KEY", "key")
    monkeypatch.setenv("SECATEUR_S3_SECRET_KEY", "very secret")
    monkeypatch.setenv("SECATEUR_HOST", "0.0.0.0")
    settings = Settings()
    assert settings.database_url == f"sqlite:///{tmp_path}/secateur.db"
    assert settings.storage_url == f"file://{tmp_path}/storage"
    assert settings.public_url == "http://127.0.0.1:8080"
    assert settings.allowed_roots == (Path("/models"), Path("/texts"))
    assert "very secret" not in repr(settings)
    assert settings.s3.keys == ("key", "very secret")


def test_drivers_get_no_secrets_through_ray(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = Settings(
        state_dir=tmp_path,
        s3=S3Options(access_key="key", secret_key="very secret", endpoint_url="http://s3"),
        hub_token="hf_secret",
        allowed_roots="/a:/b",
    )
    environment = given.driver_environment()
    assert not {"very secret", "hf_secret", "key"} & set(environment.values())
    assert environment["SECATEUR_S3_ENDPOINT_URL"] == "http://s3"
    for name, value in (environment | given.secret_environment()).items():
        monkeypatch.setenv(name, value)
    read = Settings(state_dir=tmp_path / "elsewhere")
    assert read.storage_url == given.storage_url
    assert read.allowed_roots == given.allowed_roots
    assert read.s3 == given.s3
