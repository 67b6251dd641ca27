"""Every kind of training learns and holds zeros; rules move them; some stop early or break with a reason."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from pipeline.artifacts.refs import CheckpointRef, KeepRef
from pipeline.checkpoint.keeps import load_keep
from pipeline.checkpoint.reader import CheckpointReader
from pipeline.errors import TrainingDiverged
from tests.workers.outcomes import curve_of, weights_of
from tests.workers.training_runs import Call, Folder, Prepared, run_all
from workers.training import loop
from workers.training.losses import Losses

pytestmark = pytest.mark.slow

FAST = {"peak": 2e-2, "warmup_steps": 2}
KINDS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "distillation": ({"objective": {"kind": "distillation", "hidden_weight": 0.5}}, {}),
    "sharded teacher": (
        {"objective": {"kind": "distillation", "divergence": "reverse", "top_k": 20}},
        {"zero_stage": 3, "teacher": "sharded", "gradient_checkpointing": True},
    ),
    "offloaded": (
        {"objective": {"kind": "distillation", "divergence": "jensen_shannon"}},
        {
            "zero_stage": 3,
            "teacher": "offloaded",
            "offload": {"optimizer": True, "parameters": True},
        },
    ),
    "offloaded optimizer": ({}, {"zero_stage": 2, "offload": {"optimizer": True}, "micro_batch_size": 2}),
    "lora": ({"trains": {"kind": "lora", "rank": 4}, "learning_rate": FAST}, {"zero_stage": 2}),
    "sharded lora": (
        {"trains": {"kind": "lora", "rank": 4}, "learning_rate": FAST},
        {"zero_stage": 3, "gradient_checkpointing": True},
    ),
    "norms": ({"trains": {"kind": "norms_and_biases"}}, {"zero_stage": 1}),
    "reconstruction": ({"trains": {"kind": "reconstruction"}}, {}),
}


@pytest.mark.parametrize("workers", [1, 2])
def test_every_kind_of_training_learns_and_holds_zeros(tiny: Prepared, tmp_path: Path, workers: int) -> None:
    calls = [
        Call(tiny.work({"steps": 8, **recovery}, resources, key=f"{name}-{workers}"), Folder(tmp_path / name))
        for name, (recovery, resources) in KINDS.items()
    ]
    outcomes = dict(zip(KINDS, run_all(tmp_path, calls, workers=workers), strict=True))
    keeps = load_keep(tiny.content, tiny.pruned, tiny.keep)
    for name, outcome in outcomes.items():
        curve = curve_of(tiny, outcome)
        if name == "reconstruction":
            assert all(fit.after < fit.before for fit in curve.blocks)
        else:
            assert curve.validations[-1].loss < curve.validations[0].loss, name
        weights = weights_of(tiny, outcome)
        for tensor, keep in keeps.items():
            assert not weights[tensor][~keep].any(), name
    assert set(outcomes["lora"].result.artifacts) == {"checkpoint", "curve", "keep", "certificate", "adapter"}
    whole, sharded = (curve_of(tiny, outcomes[name]) for name in ("lora", "sharded lora"))
    assert [r.loss for r in whole.steps] == pytest.approx([r.loss for r in sharded.steps], abs=1e-5)
    dense = CheckpointReader(tiny.content, tiny.pruned)
    trained = weights_of(tiny, outcomes["norms"])
    assert {n for n in trained if not torch.equal(trained[n], dense.tensor(n))} == {
        n for n in trained if trained[n].dim() == 1
    }


def plant_no_number() -> None:
    """The third step's loss is not a number."""
    honest, called = Losses.training, 0

    def training(self: Losses, tokens_BL: Tensor) -> tuple[Tensor, Tensor]:
        nonlocal called
        called += 1
        loss, entropy = honest(self, tokens_BL)
        return (loss * float("nan") if called > 8 else loss), entropy

    Losses.training = training  # type: ignore[method-assign]


def plant_honesty() -> None:
    """Ask about preemption at every step."""
    loop.ASK_SECONDS = -1.0


def test_moving_zeros_stopping_early_and_machines_that_go_away(tiny: Prepared, tmp_path: Path) -> None:
    """All in one pair of processes; the last call breaks it."""
    rules: dict[str, dict[str, Any]] = {
        "dynamic": {"keep": {"kind": "dynamic", "every_steps": 2, "share": 0.2, "until": 1.0}, "steps": 8},
        "gradual": {
            "keep": {"kind": "gradual", "sparsity": 0.75, "every_steps": 2, "until": 0.8},
            "steps": 10,
        },
        "from dense": {"keep": {"kind": "gradual", "sparsity": 0.5, "every_steps": 2}, "steps": 10},
        "early": {
            "learning_rate": {"kind": "constant", "peak": 0.3, "warmup_steps": 0},
            "early_stop": {"patience": 2},
            "validate_every_steps": 1,
            "steps": 30,
            "divergence_margin": 1000.0,
        },
    }
    calls = [
        Call(
            tiny.work(
                recovery,
                {"save_every_steps": 1000},
                key=name,
                student="dense" if "dense" in name else "pruned",
            ),
            Folder(tmp_path / name),
        )
        for name, recovery in rules.items()
    ]
    preempted = tiny.work({}, {"save_every_steps": 1000}, key="preempted")
    calls.append(Call(preempted, Folder(tmp_path / "preempted", is_preempted=True), plant_honesty))
    broken = tiny.work({}, {"save_every_steps": 2}, key="broken")
    calls.append(Call(broken, Folder(tmp_path / "broken"), plant_no_number))
    *held, early, spared, failed = run_all(tmp_path, calls, workers=2)

    for (name, recovery), outcome in zip(rules.items(), held, strict=False):
        curve = curve_of(tiny, outcome)
        assert outcome.result is not None
        keep = outcome.result.artifacts["keep"]
        checkpoint = outcome.result.artifacts["checkpoint"]
        assert isinstance(keep, KeepRef)
        assert isinstance(checkpoint, CheckpointRef)
        keeps = load_keep(tiny.content, checkpoint, keep)
        weights = weights_of(tiny, outcome)
        target = recovery["keep"].get("sparsity", 0.5)
        for tensor, kept in keeps.items():
            assert not weights[tensor][~kept].any(), name
            assert abs(float((~kept).float().mean()) - target) < 1e-3, (name, tensor)
        assert curve.updates[-1].zeros == sum(int((~kept).sum()) for kept in keeps.values())
        if name == "dynamic":
            assert all(update.grown == update.dropped for update in curve.updates)
            assert curve.updates[0].dropped > 0
            assert keep != tiny.keep

    stopped = curve_of(tiny, early)
    assert stopped.stopped == "early"
    best = min(stopped.validations, key=lambda validation: validation.loss)
    assert stopped.result_step == best.step
    assert len(stopped.steps) == best.step + 2

    assert (tmp_path / "preempted" / "step-000001" / "state.json").is_file()
    assert curve_of(tiny, spared).steps[-1].step == 6
    assert isinstance(failed.error, TrainingDiverged)
    assert "step 5" in failed.error.message
    assert "checkpoint of step 4 is kept" in failed.error.message
