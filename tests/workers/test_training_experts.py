"""Models with experts are trained end to end: transformers fuses experts, checkpoints and keep tensors do
not."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from pipeline.artifacts.certificate import Certificate
from pipeline.artifacts.refs import CheckpointRef
from pipeline.checkpoint.reader import CheckpointReader
from tests.models import Kind
from tests.workers.outcomes import curve_of, keeps_of, stored, weights_of
from tests.workers.training_runs import Call, Folder, Outcome, Prepared, prepare, run_all
from workers.harness.files import materialise_checkpoint

pytestmark = pytest.mark.slow

FAST = {"peak": 2e-2, "warmup_steps": 2}
CALLS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "zero 1": ({}, {"zero_stage": 1}),
    "zero 2": ({}, {"zero_stage": 2, "micro_batch_size": 2}),
    "zero 3": ({}, {"zero_stage": 3, "gradient_checkpointing": True}),
    "distillation": (
        {"objective": {"kind": "distillation", "hidden_weight": 0.5}},
        {"zero_stage": 3, "teacher": "sharded"},
    ),
    "lora": ({"trains": {"kind": "lora", "rank": 4}, "learning_rate": FAST}, {"zero_stage": 3}),
    "vectors": ({"trains": {"kind": "norms_and_biases"}, "learning_rate": FAST}, {"zero_stage": 2}),
    "dynamic": ({"keep": {"kind": "dynamic", "every_steps": 2, "until": 1.0}}, {"zero_stage": 2}),
    "gradual": ({"keep": {"kind": "gradual", "sparsity": 0.75, "every_steps": 2}}, {"zero_stage": 1}),
}


@pytest.mark.parametrize(("kind", "workers"), [("mixtral", 2), ("qwen2_moe", 1), ("qwen3_moe", 2)])
def test_experts_learn_and_hold_their_zeros(kind: Kind, workers: int, tmp_path: Path) -> None:
    tiny = prepare(tmp_path / "model", kind)
    calls = [
        Call(tiny.work({"steps": 8, **recovery}, resources, key=name), Folder(tmp_path / name))
        for name, (recovery, resources) in CALLS.items()
    ]
    outcomes = dict(zip(CALLS, run_all(tmp_path, calls, workers=workers), strict=True))
    for name, outcome in outcomes.items():
        curve = curve_of(tiny, outcome)
        assert curve.validations[-1].loss < curve.validations[0].loss, name
        assert_certified(tiny, outcome, steps=0 if name in ("lora", "vectors") else 9)
    losses = [[step.loss for step in curve_of(tiny, outcomes[f"zero {stage}"]).steps] for stage in (1, 2, 3)]
    assert losses[1] == pytest.approx(losses[0], abs=1e-5)
    assert losses[2] == pytest.approx(losses[0], abs=1e-5)
    before, after = CheckpointReader(tiny.content, tiny.pruned), weights_of(tiny, outcomes["zero 3"])
    assert after.keys() == before.index.tensors.keys()
    experts = [name for name in after if ".experts." in name]
    assert experts
    for name in experts:
        assert not torch.equal(after[name], before.tensor(name)), f"{name} was not trained"
    assert_each_linear_moved(tiny, outcomes)
    assert_transformers_opens(tiny, outcomes["zero 3"], tmp_path / "opened")


def assert_certified(tiny: Prepared, outcome: Outcome, *, steps: int) -> None:
    """Zeros in what is stored, and at every check, of which there are none in training where linears are
    frozen."""
    assert outcome.result is not None
    weights = weights_of(tiny, outcome)
    certificate = outcome.result.artifacts["certificate"].load(tiny.content, Certificate)
    assert {one.tensor for one in certificate.tensors} >= {name for name in weights if ".experts." in name}
    for name, keep in keeps_of(tiny, outcome).items():
        assert not weights[name][~keep].any(), name
    assert certificate.holds
    assert all(check.held == check.zeros > 0 for check in certificate.checks)
    checked = [check.step for check in certificate.checks if check.at == "step"]
    assert checked == list(range(steps))


def assert_each_linear_moved(tiny: Prepared, outcomes: dict[str, Outcome]) -> None:
    """The share of zeros is that of the rule in every expert by itself."""
    for name, sparsity in (("dynamic", 0.5), ("gradual", 0.75)):
        for tensor, keep in keeps_of(tiny, outcomes[name]).items():
            assert abs(float((~keep).float().mean()) - sparsity) < 2e-3, (name, tensor)


def assert_transformers_opens(tiny: Prepared, outcome: Outcome, directory: Path) -> None:
    """The stored files give the model whose loss was recorded at last."""
    checkpoint: CheckpointRef = stored(outcome)[0]
    directory.mkdir()
    materialise_checkpoint(checkpoint, tiny.content, directory)
    model, told = AutoModelForCausalLM.from_pretrained(
        directory, dtype=torch.float32, output_loading_info=True
    )
    assert not told["missing_keys"]
    assert not told["unexpected_keys"]
    data = tiny.content.get_bytes(tiny.tokens.file("validation.safetensors"))
    (directory / "rows.safetensors").write_bytes(data)
    rows = load_file(directory / "rows.safetensors")["tokens"].long()
    with torch.no_grad():
        logits = model(input_ids=rows).logits[:, :-1]
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), rows[:, 1:].flatten())
    assert float(loss) == pytest.approx(curve_of(tiny, outcome).validations[-1].loss, rel=1e-4)
