"""Masks of other architectures and patterns, and of a single linear whose best masks are known."""

import itertools
from pathlib import Path

import pytest
import torch
from torch import Tensor

from pipeline.spec.mask_training import MaskTraining
from pipeline.spec.patterns import NM
from pipeline.tensor.soft_masks import Draw, candidates, chosen, key_of, masked_weight
from pipeline.tensor.zeros import first_bad_group
from tests.models import Kind
from tests.workers.outcomes import curve_of, keeps_of, stored
from tests.workers.training_runs import prepare, run_one
from workers.training.certified import kept_as_they_were
from workers.training.masked import draw_at
from workers.training.stored import Stored

TWO_OF_FOUR = NM(keep=2, group=4)

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("kind", ["gpt2", "opt", "gemma2"])
def test_other_architectures(tmp_path: Path, kind: Kind) -> None:
    """Conv1D, biases, and blocks with more than one kind of attention."""
    other = prepare(tmp_path / "root", kind, pattern=TWO_OF_FOUR)
    outcome = run_one(tmp_path / "run", other.learning(key=kind))
    assert curve_of(other, outcome).masks[-1].blocks[0].changed > 0
    checkpoint, keep = stored(outcome)
    kept_as_they_were(other.content, other.dense, Stored(step=6, checkpoint=checkpoint, keep=keep))


@pytest.mark.parametrize("pattern", [NM(keep=1, group=4), NM(keep=4, group=8)])
def test_other_patterns(tmp_path: Path, pattern: NM) -> None:
    other = prepare(tmp_path / "root", pattern=pattern)
    outcome = run_one(tmp_path / "run", other.learning(key="nm"), workers=1)
    for keep in keeps_of(other, outcome).values():
        assert first_bad_group(keep, keep=pattern.keep, group=pattern.group) is None
    assert curve_of(other, outcome).masks[-1].blocks[0].changed > 0


def test_one_linear_comes_within_a_hundredth_of_the_best_masks() -> None:
    """2 rows of 3 groups of a linear: 6^3 masks a row, each tried. The objective of a row is its own, so that
    the best of each row together are the best of all."""
    generator = torch.Generator().manual_seed(3)
    x_TI = torch.randn(64, 12, generator=generator) @ torch.randn(12, 12, generator=generator)
    weight_OI = torch.randn(2, 12, generator=generator)
    masks_CM = candidates(2, 4)
    target_TO = x_TI @ weight_OI.t()

    def loss_of(masked_OI: Tensor) -> Tensor:
        return (x_TI @ masked_OI.t() - target_TO).square().sum() / target_TO.square().sum()

    best = 0.0
    for row in range(2):
        tried = [torch.cat([masks_CM[c] for c in choice]) for choice in itertools.product(range(6), repeat=3)]
        errors = [
            float((x_TI @ (weight_OI[row] * mask) - target_TO[:, row]).square().sum()) for mask in tried
        ]
        best += min(errors) / float(target_TO.square().sum())

    logits_CG = torch.zeros(6, 6).normal_(std=0.01, generator=generator).requires_grad_()
    optimizer = torch.optim.AdamW([logits_CG], betas=(0.9, 0.95), eps=1e-8)
    steps = 1000
    training = MaskTraining.model_validate(
        {
            "text": {"source": "file:/x.txt"},
            "steps": steps,
            "temperature": {"start": 1, "end": 0.3},
            "scale": {"start": 100, "end": 100},
        }
    )
    for step in range(steps):
        scale, temperature = draw_at(training, step)
        masked_OI, _ = masked_weight(
            weight_OI, logits_CG, masks_CM, Draw(scale, temperature, key_of(0, step))
        )
        loss_of(masked_OI).backward()
        optimizer.param_groups[0]["lr"] = 2e-3 * (1 - step / steps)
        optimizer.step()
        optimizer.zero_grad()
    learned = float(loss_of(weight_OI * chosen(logits_CG.detach(), masks_CM, (2, 12))))
    assert learned <= 1.01 * best
