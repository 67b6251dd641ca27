"""Graphs with a key-value cache, opened by onnxruntime and OpenVINO in fresh processes, answer as
transformers does; and what these processes say when they fail."""

from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import TargetFailed
from pipeline.spec.targets import OnnxRuntime, TargetKind
from tests.workers.targets.made_models import checked, compared, exported, made_model, opening_of, with_config
from workers.targets.agreement import FLOAT32
from workers.targets.consumer import Opening
from workers.targets.measuring import Which, serving_of, timed_rounds
from workers.targets.opened import ask

TARGETS: dict[str, tuple[TargetKind, str, dict[str, Any]]] = {
    "onnxruntime-llama": ("onnxruntime", "llama", {}),
    "onnxruntime-gemma2": ("onnxruntime", "gemma2", {}),  # windows, and attention of its own
    "onnxruntime-cut": ("onnxruntime", "qwen3", {"num_attention_heads": 3, "num_key_value_heads": 1}),
    "openvino-gpt2": ("openvino", "gpt2", {}),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", TARGETS)
def test_a_graph_computes_what_transformers_does(name: str, tmp_path: Path) -> None:
    target, kind, fields = TARGETS[name]
    found = checked(target, made_model(tmp_path / "model", kind, **fields))
    assert (found.target, found.prompts, found.tokens, found.compared) == (target, 4, 48, 48 * 8)
    assert found.difference < found.tolerance == FLOAT32


@pytest.mark.slow
def test_both_models_are_timed_in_turn_and_another_model_is_found(tmp_path: Path) -> None:
    model = made_model(tmp_path / "model", dtype="bfloat16", num_hidden_layers=1)
    written = exported("onnxruntime", model)
    opening = opening_of("onnxruntime", model, written)
    target = OnnxRuntime(prompt_tokens=12, generated_tokens=6, rounds=2)
    openings: dict[Which, Opening] = {"dense": opening, "final": opening}
    rounds = list(timed_rounds(openings, target))
    assert [which for which, _ in rounds] == ["dense", "final", "final", "dense"]
    serving = serving_of(openings, target, rounds, machine="one")
    assert serving.dense.file_bytes == sum(path.stat().st_size for path in written.iterdir())
    for one in (serving.dense, serving.final):
        for spread in (one.decode, one.prefill, one.first_token, one.memory):
            assert 0 < spread.least <= spread.median <= spread.most
    other = with_config(model, rms_norm_eps=0.3)
    with pytest.raises(TargetFailed, match="onnxruntime: after a prompt"):
        compared("onnxruntime", other, written)


def test_a_python_without_vllm_says_so(tmp_path: Path) -> None:
    model = made_model(tmp_path / "model")
    with pytest.raises(TargetFailed, match="No module named 'vllm'"):
        compared("vllm", model, None)


def test_a_python_that_is_not_there_is_named(tmp_path: Path) -> None:
    opening = opening_of("vllm", tmp_path, None)
    with pytest.raises(TargetFailed, match=r"there is no /nowhere/python; correct SECATEUR_VLLM_PYTHON"):
        ask(opening, {}, python="/nowhere/python")
