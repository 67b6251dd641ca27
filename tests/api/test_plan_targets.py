"""What POST /plans and POST /jobs say of a target."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from api.settings import Settings
from tests.api.conftest import RunningApi, running
from tests.models import tiny_checkpoint


@pytest.fixture
def api(make_settings: Callable[..., Settings], tmp_path: Path) -> Iterator[RunningApi]:
    """An API whose workers have all but vLLM."""
    targets = ("llama.cpp", "onnxruntime", "openvino")
    with running(make_settings(allowed_roots=(tmp_path,), targets=targets), resolver=None) as api:
        yield api


def body(model: Path, target: object, **structure: Any) -> dict[str, Any]:
    spec: dict[str, Any] = {
        "model": {"source": f"file:{model}"},
        "prune": {"method": {"kind": "magnitude"}, "pattern": {"kind": "unstructured", "sparsity": 0.5}},
        "target": target,
    }
    if structure:
        spec["structure"] = {**structure, "criterion": {"kind": "magnitude"}}
    return {"spec": spec}


def test_a_plan_says_what_a_form_gains(api: RunningApi, tmp_path: Path) -> None:
    target = {"kind": "llama.cpp", "prompt_tokens": 16, "generated_tokens": 16}
    request = body(tiny_checkpoint("llama", tmp_path / "model"), target, intermediate_size=64)
    answer = api.client.post("/plans", json=request)
    assert answer.status_code == 200, answer.text
    (serving,) = answer.json()["serving"]
    gains = {fact["form"]: fact["gains"] for fact in serving["facts"]}
    assert gains == {"unstructured": "nothing", "smaller sizes": "its share"}
    assert all(fact["sources"] for fact in serving["facts"])
    assert 0.5 < serving["weights"] < 1 < serving["speed"] < 2
    nodes = [node["node"] for node in answer.json()["nodes"]]
    assert {"export:final:llama.cpp", "open:llama.cpp", "measure_serving:llama.cpp"} <= set(nodes)


@pytest.mark.parametrize(
    ("target", "param", "named"),
    [
        ({"kind": "vllm"}, "spec.target.0.kind", "SECATEUR_VLLM_PYTHON"),
        ([{"kind": "openvino"}, {"kind": "llama.cpp"}], "spec.target.0.prompt_tokens", "192 positions"),
    ],
)
def test_a_job_that_its_target_refuses_is_not_taken(
    api: RunningApi, tmp_path: Path, target: object, param: str, named: str
) -> None:
    answer = api.client.post("/jobs", json=body(tiny_checkpoint("llama", tmp_path / "model"), target))
    assert answer.status_code == 422, answer.text
    error = answer.json()["error"]
    assert error["param"] == param
    assert named in error["message"]


def test_a_job_without_a_target_expects_nothing(api: RunningApi, tmp_path: Path) -> None:
    answer = api.client.post("/plans", json=body(tiny_checkpoint("llama", tmp_path / "model"), None))
    assert answer.json()["serving"] == []
