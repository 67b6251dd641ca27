"""Reconstruction of a block: Adam on the relative distance, zeros held, the same bits for any gang."""

from pathlib import Path

import pytest
import torch

from pipeline.allocations import Uniform
from pipeline.blocks.fitting import BlockFitter
from pipeline.errors import NumericalError
from pipeline.methods.magnitude import Magnitude
from pipeline.methods.wanda import Wanda
from pipeline.spec.patterns import NM, Unstructured
from pipeline.spec.reconstruction import BlockReconstruction, batches, steps_of
from pipeline.tensor.statistics import tree_sum
from tests.checkpoints import imported
from tests.models import tiny_checkpoint
from tests.pipeline.blocks.test_sweep import samples
from tests.sweeping import prune_in_process

SPEC = BlockReconstruction(epochs=3, samples_per_step=4, learning_rate=1e-3)


pytestmark = pytest.mark.usefixtures("one_thread", "no_gradients")


def fitted(tmp_path: Path, kind="llama", spec=SPEC, method=Wanda(), pattern=NM(keep=2, group=4), **options):
    model = tmp_path / "model"
    content, checkpoint = imported(
        model if model.exists() else tiny_checkpoint(kind, model), tmp_path / "store"
    )
    return prune_in_process(
        content,
        checkpoint,
        samples(),
        method=method,
        allocation=Uniform(),
        pattern=pattern,
        reconstruction=spec,
        **options,
    )


@pytest.mark.parametrize(("count", "size"), [(16, 8), (6, 4), (3, 8), (1, 1), (7, 3)])
def test_every_sample_is_in_an_epoch_and_a_step_is_spread_over_all(count: int, size: int) -> None:
    steps = batches(count, size)
    assert {sample for step in steps for sample in step} == set(range(count))
    for step in steps:
        assert len(set(step)) == len(step) == min(size, count)
        assert list(step) == sorted(step)


def test_the_steps_are_those_of_torchs_adam_on_the_relative_distance() -> None:
    generator = torch.Generator().manual_seed(5)
    weight = torch.randn(6, 4, generator=generator)
    keep = torch.rand(6, 4, generator=generator) > 0.5
    xs = [torch.randn(1, 9, 4, generator=generator) for _ in range(4)]
    ys = [torch.randn(1, 9, 6, generator=generator) * (i + 1) for i in range(4)]
    spec = BlockReconstruction(epochs=5, samples_per_step=2, learning_rate=0.02)
    fitter = BlockFitter(
        {"weight": weight * keep},
        {"weight": keep},
        lambda weights, x: x @ weights["weight"].t(),
        spec,
        samples=4,
        dtype=torch.float32,
        device=torch.device("cpu"),
    )
    reference = torch.nn.Parameter((weight * keep).clone())
    adam = torch.optim.Adam([reference], lr=0.02)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(adam, T_max=steps_of(spec, samples=4))
    for step in range(steps_of(spec, samples=4)):
        batch = batches(4, 2)[step % 2]
        fitter.step(tree_sum([{(0, i): fitter.gradient(xs[s], ys[s])} for i, s in enumerate(batch)]))
        with torch.enable_grad():
            used = reference * keep
            loss = sum(
                ((xs[s] @ used.t() - ys[s]).square().sum(-1) / ys[s].square().sum(-1)).mean() for s in batch
            )
            adam.zero_grad()
            loss.backward()
        adam.step()
        schedule.step()
    torch.testing.assert_close(fitter.tensors()["weight"], (reference * keep).detach(), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("propagation", ["pruned", "linear", "dense"])
def test_blocks_come_nearer_and_zeros_stay(propagation, tmp_path: Path) -> None:
    got = fitted(tmp_path, propagation=propagation)
    fits = [stored.fit for stored in got.blocks]
    assert all(fit is not None and 0 < fit.after < fit.before for fit in fits)
    for name, keep in got.keep.items():
        assert torch.equal(got.weights[name] == 0, ~keep)


@pytest.mark.parametrize("kind", ["gpt2", "mixtral"])
def test_transposed_weights_and_experts_are_fitted_under_their_keep(kind: str, tmp_path: Path) -> None:
    got = fitted(tmp_path, kind=kind)
    assert all(stored.fit is not None and stored.fit.after < stored.fit.before for stored in got.blocks)
    assert all(torch.equal(got.weights[name] == 0, ~keep) for name, keep in got.keep.items())


def test_any_number_of_workers_fits_to_the_same_bits(tmp_path: Path) -> None:
    runs = [fitted(tmp_path / str(workers), workers=workers) for workers in (1, 2, 4)]
    assert runs[0].blocks == runs[1].blocks == runs[2].blocks


def test_going_on_after_a_stored_block_fits_to_the_same_bits(tmp_path: Path) -> None:
    whole = fitted(tmp_path).blocks
    assert fitted(tmp_path, done=whole[:1]).blocks == whole


def test_a_method_without_calibration_can_be_fitted(tmp_path: Path) -> None:
    got = fitted(tmp_path, method=Magnitude(), pattern=Unstructured(sparsity=0.5))
    assert all(stored.fit is not None and stored.fit.after < stored.fit.before for stored in got.blocks)


def test_what_does_not_come_nearer_is_not_taken(tmp_path: Path) -> None:
    wild = fitted(tmp_path / "wild", spec=BlockReconstruction(epochs=1, learning_rate=1.0))
    plain = fitted(tmp_path / "plain", spec=None)
    assert wild.blocks[0].fit is not None
    assert wild.blocks[0].fit.after == wild.blocks[0].fit.before
    assert wild.blocks[0].weights == plain.blocks[0].weights


def test_gradients_that_are_not_finite_are_named() -> None:
    fitter = BlockFitter(
        {"weight": torch.ones(2, 2)},
        {},
        lambda weights, x: x @ weights["weight"],
        SPEC,
        samples=1,
        dtype=torch.float32,
        device=torch.device("cpu"),
    )
    with pytest.raises(NumericalError, match="lower learning_rate"):
        fitter.step(torch.full((4,), torch.nan))
