"""Training whose logits never stand whole is training as before, but for rounding."""

from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.resolve import training_activations
from tests.models import Kind
from tests.workers.outcomes import curve_of, keeps_of, weights_of
from tests.workers.training_runs import Call, Folder, prepare, run_all
from workers.training.heads import LossHead

pytestmark = pytest.mark.slow

CALLS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "plain": ({}, {"zero_stage": 1, "micro_batch_size": 2}),
    "distilled": (
        {"objective": {"kind": "distillation", "hidden_weight": 0.5, "top_k": 20}},
        {"zero_stage": 3, "teacher": "sharded", "gradient_checkpointing": True},
    ),
    "lora": (
        {"trains": {"kind": "lora", "rank": 4}, "learning_rate": {"peak": 2e-2, "warmup_steps": 2}},
        {"zero_stage": 3},
    ),
}


def plant_fused() -> None:
    """Let logits of any size be too large; the model may not give any."""
    training_activations.FUSED_ABOVE = 0
    honest = LossHead._loss

    def loss(self: LossHead, hidden_BLH: torch.Tensor) -> torch.Tensor:
        found = honest(self, hidden_BLH)
        assert found.shape == (2,)
        return found

    LossHead._loss = loss  # type: ignore[method-assign]


@pytest.mark.parametrize(
    ("kind", "workers", "names"), [("llama", 2, tuple(CALLS)), ("gemma2", 1, ("plain",))]
)
def test_the_loss_without_logits_trains_alike(
    kind: Kind, workers: int, names: tuple[str, ...], tmp_path: Path
) -> None:
    tiny = prepare(tmp_path / "model", kind)
    calls = []
    for way, plant in (("whole", None), ("fused", plant_fused)):
        for name in names:
            recovery, resources = CALLS[name]
            work = tiny.work({"steps": 3, **recovery}, resources, key=f"{way}-{name}")
            calls.append(Call(work, Folder(tmp_path / way / name), plant))
    outcomes = run_all(tmp_path, calls, workers=workers)
    for name, whole, fused in zip(names, outcomes, outcomes[len(names) :], strict=False):
        ours, theirs = curve_of(tiny, fused), curve_of(tiny, whole)
        assert [s.loss for s in ours.steps] == pytest.approx([s.loss for s in theirs.steps], abs=2e-5), name
        for one, other in zip(ours.validations, theirs.validations, strict=True):
            assert one.loss == pytest.approx(other.loss, abs=2e-5), name
        norms = [[step.gradient_norm for step in curve.steps] for curve in (ours, theirs)]
        assert norms[0] == pytest.approx(norms[1], rel=1e-3), name
        weights = weights_of(tiny, fused)
        for tensor, keep in keeps_of(tiny, fused).items():
            assert not weights[tensor][~keep].any(), name
