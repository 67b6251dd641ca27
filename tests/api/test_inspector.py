"""A model that is not what its config.json says is refused when its job is submitted, by a process beside the
API."""

import logging
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from api.inspector import InspectorProcess, can_inspect
from api.settings import Settings
from pipeline.checkpoint.header import TensorFacts
from pipeline.checkpoint.inspection import Inspection
from pipeline.errors import UnsupportedCheckpoint
from tests import bad_checkpoints
from tests.api.conftest import running
from tests.pipeline.checkpoint.test_compare import config_of, tensors_of

pytestmark = pytest.mark.slow


def order(directory: Path) -> dict[str, Any]:
    return {
        "spec": {
            "model": {"source": f"file:{directory}"},
            "prune": {"method": {"kind": "magnitude"}, "pattern": {"kind": "unstructured", "sparsity": 0.5}},
        }
    }


@pytest.mark.servers
def test_a_job_is_refused_at_once_and_the_process_ends_with_the_service(
    make_settings: Callable[..., Settings], tmp_path: Path
) -> None:
    wrong = bad_checkpoints.stray_biases(tmp_path / "wrong")
    right = bad_checkpoints.untied(tmp_path / "right")
    settings = make_settings(allowed_roots=(tmp_path,), inspect_models="auto", inspect_seconds=120)
    with running(settings, resolver=None) as api:
        for path in ("/jobs", "/plans"):
            answer = api.client.post(path, json=order(wrong), timeout=120)
            assert answer.status_code == 422, answer.text
            error = answer.json()["error"]
            assert (error["code"], error["param"]) == ("unsupported_checkpoint", "spec.model.source")
            assert "set attention_bias to true and mlp_bias to true" in error["message"]
        assert api.client.post("/jobs", json=order(right)).status_code == 202
        children = {int(name) for name in os.listdir("/proc") if name.isdecimal() and _is_ours(name)}
        assert len(children) == 1
    assert not any(_is_ours(str(child)) for child in children)


def test_without_an_answer_the_job_decides(caplog: pytest.LogCaptureFixture) -> None:
    asked = Inspection(config=config_of("llama"), tensors=tensors_of("llama"), where="file:/m")
    inspector = InspectorProcess(seconds=0.01)
    with caplog.at_level(logging.WARNING):
        inspector(asked)  # the process needs seconds to start
    assert "file:/m is not inspected: there was no answer within 0.01 s" in caplog.text
    inspector.close()


def test_a_process_that_died_is_started_again(caplog: pytest.LogCaptureFixture) -> None:
    inspector = InspectorProcess(seconds=120)
    asked = Inspection(config=config_of("llama"), tensors=tensors_of("llama"), where="file:/m")
    inspector(asked)
    assert inspector._process is not None
    assert inspector._process.pid is not None
    os.kill(inspector._process.pid, signal.SIGKILL)
    inspector._process.join()
    stray = {"x.weight": TensorFacts("F32", (1,), "model.safetensors")}
    with pytest.raises(UnsupportedCheckpoint, match=r"x\.weight"):
        inspector(Inspection(config=asked.config, tensors={**asked.tensors, **stray}, where="file:/m"))
    inspector.close()
    assert caplog.text == ""


def test_it_is_off_where_torch_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert can_inspect()
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "torch" else object())
    assert not can_inspect()


def _is_ours(pid: str) -> bool:
    """True for a process that this one has spawned and that runs."""
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes().decode()
        parent = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1]
    except OSError:
        return False
    return int(parent) == os.getpid() and "spawn_main" in command
