"""POST /jobs/{id}/reproduce, and the command."""

from pathlib import Path

import pytest

from api.client.client import ClientError
from tests.api import played
from tests.api.conftest import RunningApi
from tests.api.terminal import cli, submit
from tests.models import tiny_checkpoint


def test_a_job_of_the_same_request_and_pins_names_the_first(sqlite_api: RunningApi) -> None:
    first = submit(sqlite_api)
    with sqlite_api.secateur() as client:
        with pytest.raises(ClientError, match="only a job that has succeeded") as refused:
            client.reproduce(first)
        assert (refused.value.status, refused.value.code) == (409, "job_not_reproducible")
        played.start(sqlite_api, first)
        played.succeed(sqlite_api, first)
        again = client.reproduce(first)
        assert again.id != first
        assert (again.reproduces, again.status) == (first, "queued")
        assert again.spec == client.job(first).spec
        assert client.job(again.id) == again
        assert client.job(first).reproduces is None
        with pytest.raises(ClientError, match="there is no job"):
            client.reproduce("job-00000000000000000000")


def test_the_command_needs_a_job_or_a_storage(sqlite_api: RunningApi) -> None:
    refused = cli("reproduce", url=sqlite_api.url)
    assert refused.exit_code == 2
    assert "--storage" in refused.stderr


@pytest.mark.slow
def test_a_run_without_the_service_is_reproduced(tmp_path: Path) -> None:
    tiny_checkpoint("llama", tmp_path / "model")
    (tmp_path / "spec.yaml").write_text(
        "spec:\n  model: {source: 'file:model'}\n"
        "  prune: {method: {kind: magnitude}, pattern: {kind: unstructured, sparsity: 0.5}}\n"
    )
    storage = ("--storage", str(tmp_path / "store"), "--local")
    ran = cli("run", str(tmp_path / "spec.yaml"), *storage)
    assert ran.exit_code == 0, ran.output
    again = cli("reproduce", *storage)
    assert again.exit_code == 0, again.output
    assert "identical with local-" in again.stdout
    (tmp_path / "model" / "model.safetensors").write_bytes(b"other")
    changed = cli("reproduce", *storage)
    assert changed.exit_code == 1
    assert "model.safetensors" in changed.stderr
