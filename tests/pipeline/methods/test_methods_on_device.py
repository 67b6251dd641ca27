"""Every method meets every pattern on a simulated GPU, with the bits of the CPU."""

import pytest
import torch
from torch import Tensor

from pipeline.methods import OneShot
from pipeline.methods.composed import AdmmUpdate, Composed, ObsUpdate
from pipeline.methods.dsnot import Dsnot
from pipeline.methods.ria import Ria
from pipeline.methods.sparsegpt import SparseGPT
from pipeline.methods.wanda import Wanda
from pipeline.spec.patterns import NM, Pattern, Unstructured
from pipeline.tensor.needs import Statistic
from pipeline.tensor.packing import pack_keep
from pipeline.tensor.soft_masks import candidates, chosen, likelihood, prior_logits
from pipeline.tensor.statistics import GramTree, InputShare, LinearStatistics, hessian, merge, tree_sum
from tests.pipeline.blocks.test_sweep import METHODS, PATTERNS
from tests.simulated_device import GPU, simulated_gpu

pytestmark = pytest.mark.usefixtures("one_thread", "no_gradients")

EVERY: tuple[OneShot, ...] = (
    *METHODS,
    Wanda(variant=True),
    Dsnot(mask_from=Ria()),
    Composed(mask_from=SparseGPT(), update=ObsUpdate()),
    Composed(update=AdmmUpdate(iterations=3)),
)
BEYOND: tuple[Pattern, ...] = (
    *PATTERNS,
    Unstructured(sparsity=0.5, rounding="floor"),
    Unstructured(sparsity=0.5, comparison_group="matrix", rounding="floor"),
    Unstructured(sparsity=0.5, comparison_group="column_block", column_block_size=24),
)
NEEDS: tuple[Statistic, ...] = ("input_norm", "input_mean", "hessian")


def measured(samples: list[Tensor], device: torch.device) -> LinearStatistics:
    features = samples[0].shape[1]
    share = InputShare.empty(len(samples), features, NEEDS)
    tree = GramTree(features, leaf=1, first=0, device=torch.device("cpu"))
    for i, x_TI in enumerate(samples):
        share.record(i, x_TI)
        tree.add(x_TI)
    found = merge([share])
    whole = LinearStatistics(
        found.input_norm_I,
        found.samples,
        found.tokens,
        found.input_mean_I,
        found.input_variance_I,
        hessian(tree_sum([tree.parts()]), samples=len(samples)),
    )
    return whole.to(device)


def fits(method: OneShot, pattern: Pattern) -> bool:
    grouped = isinstance(pattern, NM) or pattern.comparison_group in ("matrix", "column_block")
    return not (isinstance(method, Wanda) and method.variant and grouped)


@pytest.mark.parametrize("method", EVERY, ids=lambda one: one.kind)
@pytest.mark.parametrize("values", ["random", "tied"])
def test_every_method_chooses_there_what_it_chooses_here(method: OneShot, values: str) -> None:
    weight = torch.randn(24, 48)
    if values == "tied":
        weight = weight.mul_(2).round_()  # many equal saliencies, and zeros
    samples = [torch.randn(40, 48) for _ in range(4)]
    for pattern in (one for one in BEYOND if fits(method, one)):
        here = method.choose(weight, measured(samples, torch.device("cpu")), pattern)
        with simulated_gpu():
            there = method.choose(weight.to(GPU), measured(samples, GPU), pattern)
            assert there.keep_OI.is_cuda
            assert there.weight_OI.is_cuda
            assert there.keep_OI.cpu().equal(here.keep_OI), pattern
            assert there.weight_OI.cpu().equal(here.weight_OI), pattern
            assert there.note == here.note


@pytest.mark.parametrize("shape", [(3, 8), (5, 7), (1, 1), (2, 0)])
def test_keep_tensors_are_packed_on_the_gpu(shape: tuple[int, int]) -> None:
    keep = torch.rand(shape) > 0.5
    with simulated_gpu() as gpu:
        packed = pack_keep(keep.to(GPU))
        assert packed.is_cuda
        assert gpu.syncs == 0
        assert packed.cpu().equal(pack_keep(keep))


def test_masks_are_learned_without_leaving_the_gpu() -> None:
    masks_CM = candidates(2, 4)
    keep_OI = masks_CM[torch.randint(0, 6, (30,))].reshape(10, 12)
    with simulated_gpu() as gpu:
        there = keep_OI.to(GPU)
        logits_CG = prior_logits(there, masks_CM, strength=3.0)
        again = chosen(logits_CG, masks_CM, (10, 12))
        assert gpu.syncs == 0
        assert again.cpu().equal(keep_OI)
        before = gpu.syncs
        certain = likelihood(logits_CG, 300.0)
        assert gpu.syncs == before + 1
    assert certain == likelihood(prior_logits(keep_OI, masks_CM, strength=3.0), 300.0)
