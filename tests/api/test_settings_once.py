"""A setting is written down once, as a field. Both processes, the documentation and the chart follow."""

import json
from pathlib import Path

import pytest
from pydantic import BaseModel, Field, ValidationError

from api import docs
from api.settings import Settings, variables
from pipeline.serving.available import TargetSettings
from pipeline.sources.access import SourceAccess
from pipeline.storage.options import S3Options, S3Settings
from pipeline.storage.settings import FromEnvironment, StorageSettings
from workers.settings import WorkerSettings

GIVEN = {
    "SECATEUR_STORAGE_URL": "s3://bucket/prefix",
    "SECATEUR_CACHE_DIR": "/disk",
    "SECATEUR_CACHE_BYTES": "1000",
    "SECATEUR_SNAPSHOT_SECONDS": "7.5",
    "SECATEUR_S3_ENDPOINT_URL": "http://s3.example.com",
    "SECATEUR_S3_REGION": "eu-1",
    "SECATEUR_S3_ACCESS_KEY": "AKID",
    "SECATEUR_S3_SECRET_KEY": "hush-hush",
    "SECATEUR_S3_SSE": "aws:kms",
    "SECATEUR_S3_KMS_KEY_ID": "key-7",
    "SECATEUR_S3_CHECKSUMS": "false",
    "SECATEUR_ALLOWED_ROOTS": ' ["/models", "texts"]',
    "SECATEUR_HUB_ENDPOINT": "http://hub.example.com",
    "SECATEUR_HUB_TOKEN": "hf_hush",
    "SECATEUR_HUB_CACHE_DIR": "/cache",
    "SECATEUR_HUB_OFFLINE": "true",
    "SECATEUR_TARGETS": "vllm, llama.cpp",
    "SECATEUR_VLLM_PYTHON": "/opt/vllm/bin/python",
}


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in GIVEN.items():
        monkeypatch.setenv(name, value)


def test_both_processes_read_the_same_from_the_same_variables() -> None:
    assert set(GIVEN) == set(variables(StorageSettings) | variables(SourceAccess) | variables(TargetSettings))
    api, worker = Settings(), WorkerSettings()
    assert api.storage_url == worker.storage_url == "s3://bucket/prefix"
    assert (api.cache_dir, api.cache_bytes, api.snapshot_seconds) == ("/disk", 1000, 7.5)
    assert (worker.cache_dir, worker.cache_bytes, worker.snapshot_seconds) == ("/disk", 1000, 7.5)
    assert api.s3 == worker.s3
    assert api.access() == worker.access()
    assert api.available == worker.available == ("vllm", "llama.cpp")
    assert api.vllm_python == worker.vllm_python == "/opt/vllm/bin/python"
    assert api.s3 == S3Options(
        endpoint_url="http://s3.example.com",
        region="eu-1",
        access_key="AKID",
        secret_key="hush-hush",
        sse="aws:kms",
        kms_key_id="key-7",
        checksums=False,
    )
    access = worker.access()
    assert type(access) is SourceAccess
    assert access.allowed_roots == (Path("/models"), Path("texts").absolute())
    assert (access.hub_endpoint, access.bearer) == ("http://hub.example.com", "hf_hush")
    assert (access.hub_cache_dir, access.hub_offline) == (Path("/cache"), True)
    for settings in (api, worker, access):
        assert "hush" not in repr(settings)


def test_no_field_stands_twice() -> None:
    shared: list[type[BaseModel]] = [S3Settings, StorageSettings, SourceAccess, TargetSettings]
    models = [*shared, Settings, WorkerSettings]
    every = set(Settings.model_fields) | set(WorkerSettings.model_fields)
    fields = [name for model in models for name in vars(model)["__annotations__"] if name in every]
    assert sorted(fields) == sorted(every)


def test_what_a_driver_is_given_makes_the_settings_of_the_api(monkeypatch: pytest.MonkeyPatch) -> None:
    api = Settings()
    told = api.driver_environment()
    secret = {"SECATEUR_S3_ACCESS_KEY", "SECATEUR_S3_SECRET_KEY", "SECATEUR_HUB_TOKEN"}
    assert set(told) == set(GIVEN) - secret
    assert api.secret_environment() == {name: GIVEN[name] for name in secret}
    for name in GIVEN:
        monkeypatch.delenv(name)
    for name, value in (told | api.secret_environment()).items():
        monkeypatch.setenv(name, value)
    worker = WorkerSettings()
    assert (worker.storage_url, worker.s3, worker.access()) == (api.storage_url, api.s3, api.access())
    assert (worker.targets, worker.vllm_python) == (api.targets, api.vllm_python)


def test_a_new_setting_is_a_field_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    class Longer(Settings):
        colour: str = Field(default="green", description="Colour of the leaves.")

    monkeypatch.setattr(docs, "Settings", Longer)
    pages = docs.pages()
    assert "| `SECATEUR_COLOUR` | `green` | Colour of the leaves. |" in pages["docs/settings.md"]
    extra = json.loads(pages["deploy/helm/values.schema.json"])["properties"]["settings"]["properties"][
        "extra"
    ]
    assert "SECATEUR_COLOUR" in extra["properties"]
    assert not {name for name in extra["properties"] if "KEY" in name or "TOKEN" in name}


def test_a_new_option_of_storage_reaches_both_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    class Longer(S3Options):
        zone: str | None = Field(default=None, description="Where the server stands.")

    class Storage(StorageSettings):
        s3: Longer = Longer()

    class Api(Storage, FromEnvironment):
        pass

    monkeypatch.setenv("SECATEUR_S3_ZONE", "attic")
    assert "SECATEUR_S3_ZONE" in variables(Storage)
    assert Api().s3.zone == "attic"


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("SECATEUR_S3_SSE", "AES256", "kms_key_id"),
        ("SECATEUR_S3_SECRET_KEY", "", "secret_key"),
        ("SECATEUR_S3_ENDPOINT_URL", "http://user:hush@host", "access_key and secret_key"),
        ("SECATEUR_ALLOWED_ROOTS", "[broken", "allowed_roots"),
        ("SECATEUR_HUB_OFFLINE", "perhaps", "hub_offline"),
    ],
)
def test_both_processes_refuse_the_same(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, said: str
) -> None:
    monkeypatch.setenv(name, value)
    for settings in (Settings, WorkerSettings):
        with pytest.raises(ValidationError, match=said) as caught:
            settings()
        assert "hush" not in str(caught.value)


def test_a_worker_without_storage_says_what_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SECATEUR_STORAGE_URL")
    with pytest.raises(ValidationError, match="set SECATEUR_STORAGE_URL"):
        WorkerSettings()
    assert Settings().storage_url.startswith("file://")
