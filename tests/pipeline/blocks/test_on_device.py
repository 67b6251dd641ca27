"""The block loops on a simulated GPU: no mixed devices, the bits of the CPU, and few waits per block."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import pytest
import torch

from pipeline.allocations import Owl
from pipeline.allocations.measures import HillAlpha, Measure, OutlierRatio, SaliencyMedian
from pipeline.artifacts.refs import CheckpointRef
from pipeline.blocks.activations import MemoryBudget
from pipeline.blocks.local import LocalCrew
from pipeline.blocks.losses import sequence_losses
from pipeline.blocks.measuring import measure_statistics
from pipeline.blocks.pruning import Pruning, prune_blocks
from pipeline.blocks.steps import run_through
from pipeline.methods import OneShot
from pipeline.methods.admm import Admm
from pipeline.methods.magnitude import Magnitude
from pipeline.methods.sparsegpt import SparseGPT
from pipeline.methods.wanda import Wanda
from pipeline.spec.patterns import Unstructured
from pipeline.spec.propagation import Propagation
from pipeline.spec.reconstruction import BlockReconstruction
from pipeline.spec.sparsity_plan import SparsityPlan
from pipeline.storage import ContentStore
from tests import sweeping
from tests.checkpoints import imported
from tests.models import KINDS, tiny_checkpoint
from tests.pipeline.blocks.test_sweep import ALLOCATIONS, METHODS, PATTERNS, allocation_of, samples
from tests.simulated_device import GPU, NAME, simulated_gpu
from tests.sweeping import Pruned, prune_in_process

pytestmark = pytest.mark.usefixtures("one_thread", "no_gradients")

NEEDS = frozenset({"input_norm", "input_mean", "hessian", "similarity", "channel_score"})
FIT = BlockReconstruction(epochs=1, samples_per_step=4, learning_rate=1e-3)


def stored(kind: str, tmp_path: Path) -> tuple[ContentStore, CheckpointRef]:
    return imported(tiny_checkpoint(kind, tmp_path / "model"), tmp_path / "store")


def plan_of(content: ContentStore, checkpoint: CheckpointRef) -> SparsityPlan:
    pattern = Unstructured(sparsity=0.5)
    return allocation_of("uniform", pattern, 4).plan(pattern, sweeping.prunable_weights(content, checkpoint))


@pytest.fixture
def on_gpu(monkeypatch: pytest.MonkeyPatch):
    """prune_in_process, on the simulated GPU."""

    def run(*args, **options) -> Pruned:
        with simulated_gpu(), monkeypatch.context() as patch:
            patch.setattr(sweeping, "LocalCrew", partial(LocalCrew, device=GPU))
            return prune_in_process(*args, **options)

    return run


@pytest.mark.parametrize("number", range(len(KINDS)), ids=KINDS)
def test_every_architecture_gives_the_bits_of_the_cpu(number: int, tmp_path: Path, on_gpu) -> None:
    """Every method, pattern and allocation meets some architectures; test_methods_on_device.py has the pairs
    of methods and patterns."""
    content, checkpoint = stored(KINDS[number], tmp_path)
    pattern = PATTERNS[number % len(PATTERNS)]
    blocks = LocalCrew(content, checkpoint, []).blocks
    options = {
        "method": METHODS[number % len(METHODS)],
        "pattern": pattern,
        "allocation": allocation_of(ALLOCATIONS[number % len(ALLOCATIONS)], pattern, blocks),
        "propagation": ("linear", "pruned", "dense")[number % 3],
    }
    there = on_gpu(content, checkpoint, samples(3), **options)
    here = prune_in_process(content, checkpoint, samples(3), **options)
    assert there.blocks == here.blocks
    # Spectra come from LAPACK, whose last bit may depend on where a matrix begins in memory.
    assert there.measured == pytest.approx(here.measured, rel=1e-12)


@pytest.mark.parametrize("kind", ["llama", "mixtral"])
@pytest.mark.parametrize("propagation", ["pruned", "linear"])
def test_reconstruction_gives_the_bits_of_the_cpu(kind, propagation, tmp_path: Path, on_gpu) -> None:
    options = {
        "method": Wanda(),
        "pattern": Unstructured(sparsity=0.5),
        "allocation": Owl(multiplier=3, spread=0.1),
        "propagation": propagation,
        "reconstruction": FIT,
    }
    content, checkpoint = stored(kind, tmp_path)
    there = on_gpu(content, checkpoint, samples(5), workers=2, **options)
    assert there.blocks == prune_in_process(content, checkpoint, samples(5), **options).blocks


def statistics(
    content: ContentStore, checkpoint: CheckpointRef, count: int, device: torch.device, needs=NEEDS
):
    crew = LocalCrew(content, checkpoint, samples(count), device=device)
    return run_through(measure_statistics(crew, needs, samples=count))


def small_statistics(content: ContentStore, checkpoint: CheckpointRef, count: int, device: torch.device):
    return statistics(content, checkpoint, count, device, NEEDS - {"hessian"})


def losses(content: ContentStore, checkpoint: CheckpointRef, count: int, device: torch.device):
    crew = LocalCrew(content, checkpoint, samples(count), device=device)
    return run_through(sequence_losses(crew, [15] * count))


@pytest.mark.parametrize("kind", ["llama", "qwen2_moe", "opt"])
@pytest.mark.parametrize("walk", [statistics, losses])
def test_sweeps_and_losses_give_the_bits_of_the_cpu(kind, walk, tmp_path: Path) -> None:
    content, checkpoint = stored(kind, tmp_path)
    with simulated_gpu():
        there = walk(content, checkpoint, 3, GPU)
    assert there == walk(content, checkpoint, 3, torch.device("cpu"))


def waits_of_pruning(
    stores: tuple[ContentStore, CheckpointRef], count: int, method: OneShot, propagation: Propagation
) -> float:
    """The waits for each block. Blocks are told of late, so they are counted together."""
    with simulated_gpu() as gpu:
        crew = LocalCrew(*stores, samples(count), device=GPU)
        pruning = Pruning(method=method, plan=plan_of(*stores), propagation=propagation, samples=count)
        before = gpu.syncs
        run_through(prune_blocks(crew, pruning))
        return (gpu.syncs - before) / crew.blocks


@pytest.mark.parametrize("propagation", ["pruned", "linear"])
@pytest.mark.parametrize(("method", "budget"), [(Magnitude(), 36), (Wanda(), 43), (Wanda(variant=True), 43)])
def test_waits_of_a_block_do_not_depend_on_the_samples(method, budget, propagation, tmp_path: Path) -> None:
    """The budgets are for seven linears in four groups: a few waits each, to check and to fetch results."""
    stores = stored("llama", tmp_path)
    few, many = (waits_of_pruning(stores, count, method, propagation) for count in (2, 7))
    assert few == many
    assert few <= budget


@pytest.mark.parametrize(("method", "budget"), [(SparseGPT(), 100), (Admm(), 300)])
def test_solvers_wait_for_each_gram_and_factor_only(method, budget, tmp_path: Path) -> None:
    """A gram has a part for each bit of the number of samples; selections wait once more where values tie."""
    assert waits_of_pruning(stored("llama", tmp_path), 3, method, "pruned") <= budget


def test_a_block_of_experts_waits_once_more_per_sample(tmp_path: Path) -> None:
    stores = stored("mixtral", tmp_path)
    few, many = (waits_of_pruning(stores, count, Wanda(), "pruned") for count in (2, 7))
    assert many - few == 5


@pytest.mark.parametrize(("walk", "outside"), [(small_statistics, 1), (losses, 2)])
def test_only_the_embedding_and_the_head_wait_for_every_sample(walk, outside, tmp_path: Path) -> None:
    """There, transformers looks at the positions to decide about masks; blocks take what was captured."""
    stores = stored("llama", tmp_path)
    waits = []
    for count in (2, 7):
        with simulated_gpu() as gpu:
            walk(*stores, count, GPU)
            waits.append(gpu.syncs - outside * count)
    assert waits[0] == waits[1]


@pytest.mark.parametrize("measure", [OutlierRatio(multiplier=5), SaliencyMedian(), HillAlpha()])
def test_measures_wait_a_few_times_per_block(measure: Measure, tmp_path: Path) -> None:
    content, checkpoint = stored("llama", tmp_path)
    found = statistics(content, checkpoint, 2, torch.device("cpu"))
    with simulated_gpu() as gpu:
        crew = LocalCrew(content, checkpoint, [], device=GPU)
        before = gpu.syncs
        there = sweeping.measured_values(crew, measure, found)
        waits = gpu.syncs - before
    here = sweeping.measured_values(LocalCrew(content, checkpoint, []), measure, found)
    assert there == (pytest.approx(here, rel=1e-12) if isinstance(measure, HillAlpha) else here)
    assert waits <= (28 if isinstance(measure, HillAlpha) else 2) * crew.blocks


def test_activations_leave_the_gpu_for_memory_and_memory_for_the_disk(tmp_path: Path) -> None:
    content, checkpoint = stored("llama", tmp_path)
    size = 16 * 64 * 4
    expected = losses(content, checkpoint, 6, torch.device("cpu"))
    with simulated_gpu() as gpu:
        for on_gpu, left, pinned, spilled in ((6, 0, 0, 0), (2, 3, 3, 1), (0, 6, 6, 0), (0, 0, 0, 6)):
            gpu.pinned = 0
            budget = MemoryBudget(left=left * size, on_gpu=on_gpu * size)
            crew = LocalCrew(content, checkpoint, samples(6), device=GPU, budget=budget)
            assert (gpu.pinned, crew.use().spilled_bytes) == (pinned, spilled * size)
            assert run_through(sequence_losses(crew, [15] * 6)) == expected


def test_tiers_are_stored_and_restored(tmp_path: Path) -> None:
    content, checkpoint = stored("llama", tmp_path)
    size = 16 * 64 * 4

    def hidden(crew: LocalCrew) -> Sequence[list[object]]:
        return [one.tolist() for one in crew.workers[0]._hidden]

    with simulated_gpu():
        budgets = [MemoryBudget(left=2 * size, on_gpu=2 * size), None]
        first, second = (LocalCrew(content, checkpoint, samples(6), device=GPU, budget=b) for b in budgets)
        expected = hidden(first)
        copy = first.workers[0]._hidden.copy(first=0)  # which a thread makes otherwise, without this GPU
        copy.make()
        copy.end()
        part = copy.store(content.store, "there")
        assert part is not None
        worker = second.workers[0]
        worker.load(0)
        worker.advance()
        assert hidden(second) != expected
        worker._hidden.restore(content.store, [part], first=0)
        assert hidden(second) == expected


def test_the_peak_and_the_name_of_the_gpu_are_reported(tmp_path: Path) -> None:
    content, checkpoint = stored("llama", tmp_path)
    with simulated_gpu() as gpu:
        crew = LocalCrew(content, checkpoint, samples(3), device=GPU)
        crew.tell(type(crew.workers[0]).load, 0)
        crew.all(type(crew.workers[0]).advance)
        use = crew.use()
        assert use.device == NAME
        assert use.details["gpu_memory_bytes"] == gpu.peak_bytes > 100_000
    assert "gpu_memory_bytes" not in LocalCrew(content, checkpoint, samples(3)).use().details
