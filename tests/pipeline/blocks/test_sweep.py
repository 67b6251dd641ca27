"""Every method x allocation x pattern x architecture gives exactly the asked zeros, in the right places."""

import math
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from pipeline.allocations import Allocation, AlphaPruning, Atp, Dlp, Explicit, Owl, Uniform
from pipeline.blocks.worker import SweepWorker
from pipeline.methods import OneShot
from pipeline.methods.composed import Composed
from pipeline.methods.dsnot import Dsnot
from pipeline.methods.sparsegpt import SparseGPT
from pipeline.methods.wanda import Wanda
from pipeline.spec.patterns import NM, Pattern, Unstructured
from tests.checkpoints import imported
from tests.covering import pairwise
from tests.models import KINDS, VOCABULARY, tiny_checkpoint
from tests.sweeping import Pruned, prune_in_process
from tests.unions import members

METHODS: tuple[OneShot, ...] = tuple(member() for member in members(OneShot))
PATTERNS: tuple[Pattern, ...] = (
    Unstructured(sparsity=0.5),
    Unstructured(sparsity=0.37, comparison_group="row"),
    Unstructured(sparsity=0.61, comparison_group="matrix"),
    NM(keep=2, group=4),
    NM(keep=3, group=8),
)
Cases = Callable[[str], Iterator[tuple[OneShot, Pattern, str]]]
ALLOCATIONS = ("uniform", "owl", "explicit", "atp", "alpha_pruning", "dlp")


pytestmark = pytest.mark.usefixtures("one_thread", "no_gradients")


def samples(count: int = 6, length: int = 16) -> list[Tensor]:
    generator = torch.Generator().manual_seed(3)
    return [torch.randint(0, VOCABULARY, (length,), generator=generator) for _ in range(count)]


def allocation_of(kind: str, pattern: Pattern, blocks: int) -> Allocation:
    if kind == "uniform":
        return Uniform()
    if kind in ("alpha_pruning", "dlp"):
        return AlphaPruning(spread=0.1) if kind == "alpha_pruning" else Dlp(nm_spread=1)
    if kind == "owl":
        return Owl(multiplier=3, spread=0.1, nm_spread=1)
    if kind == "atp":
        return Atp(step=0.02)
    if isinstance(pattern, NM):
        shift = [1 if i == 0 else -1 if i == blocks - 1 else 0 for i in range(blocks)]
        return Explicit(sparsity=tuple(1 - (pattern.keep + s) / pattern.group for s in shift))
    return Explicit(sparsity=tuple(pattern.target + 0.05 * (1 if i % 2 else -1) for i in range(blocks)))


def pairs(kind: str) -> Iterator[tuple[OneShot, Pattern, str]]:
    """Over all architectures, any two of architecture, method, pattern and allocation meet."""
    for k, m, p, a in pairwise(len(KINDS), len(METHODS), len(PATTERNS), len(ALLOCATIONS)):
        if KINDS[k] == kind:
            yield METHODS[m], PATTERNS[p], ALLOCATIONS[a]


def triples(kind: str) -> Iterator[tuple[OneShot, Pattern, str]]:
    """Every method meets every pattern on each architecture. On Llama they meet two allocations each time, so
    that every method meets every allocation."""
    for m, method in enumerate(METHODS):
        for p, pattern in enumerate(PATTERNS):
            some = ALLOCATIONS[(m + p) % 3 :: 3]
            for allocation in some if kind == "llama" else (ALLOCATIONS[(m + p) % len(ALLOCATIONS)],):
                yield method, pattern, allocation


@pytest.mark.parametrize("cases", [pairs, pytest.param(triples, marks=pytest.mark.slow)])
@pytest.mark.parametrize("kind", KINDS)
def test_exact_zeros_in_the_right_places(kind: str, cases: Cases, tmp_path: Path) -> None:
    content, checkpoint = imported(tiny_checkpoint(kind, tmp_path / "model"), tmp_path / "store")
    blocks = _blocks(content, checkpoint)
    for method, pattern, allocation in cases(kind):
        chosen = allocation_of(allocation, pattern, blocks)
        pruned = prune_in_process(
            content, checkpoint, samples(), method=method, allocation=chosen, pattern=pattern
        )
        where = f"{kind} {method.kind} {pattern} {allocation}"
        _check_zeros(pruned, where)


def _check_zeros(pruned: Pruned, where: str) -> None:
    linears = [linear for stored in pruned.blocks for linear in stored.linears]
    weights = sum(linear.weights for linear in linears)
    assert sum(linear.zeros for linear in linears) == round(weights * pruned.plan.asked), where
    for stored, pattern in zip(pruned.blocks, pruned.plan.blocks, strict=True):
        for linear in stored.linears:
            names = [
                name
                for name in pruned.keep
                if name in stored.weights.tensors and f".{linear.linear}." in name
            ]
            assert len(names) == 1, (where, linear)
            keep, weight = pruned.keep[names[0]], pruned.weights[names[0]]
            asked = round(linear.weights * pattern.target)
            if pruned.plan.zeros:
                assert abs(pruned.plan.zeros[stored.block][linear.linear] - asked) <= 1, (where, linear)
                asked = pruned.plan.zeros[stored.block][linear.linear]
            assert linear.pruned == int((~keep).sum()) == asked, (where, linear, asked)
            assert linear.zeros == asked, (where, linear, asked)  # random weights hold no zeros of their own
            assert torch.equal(weight == 0, ~keep), where
            if isinstance(pattern, NM):
                groups = keep.unflatten(1, (-1, pattern.group)).sum(-1)
                assert bool((groups == pattern.keep).all()), where
            elif pattern.comparison_group == "row":
                per_row = (~keep).sum(1)
                chosen = math.ceil(keep.shape[1] / pattern.column_block_size) if "sparsegpt" in where else 1
                assert int(per_row.max() - per_row.min()) <= chosen, where


def _blocks(content, checkpoint) -> int:
    return SweepWorker(content, checkpoint, [], dtype=torch.float32, device=torch.device("cpu")).num_blocks


@pytest.mark.parametrize("method", [Wanda(), Dsnot(), SparseGPT(), Composed()], ids=lambda m: m.kind)
@pytest.mark.parametrize("propagation", ["pruned", "linear", "dense"])
def test_any_number_of_workers_gives_the_same_bits(propagation, method, tmp_path: Path) -> None:
    content, checkpoint = imported(tiny_checkpoint("llama", tmp_path / "model"), tmp_path / "store")
    runs = [
        prune_in_process(
            content,
            checkpoint,
            samples(),
            method=method,
            allocation=Owl(multiplier=3, spread=0.1),
            pattern=Unstructured(sparsity=0.5),
            propagation=propagation,
            workers=workers,
        )
        for workers in (1, 2, 4)
    ]
    assert runs[0].blocks == runs[1].blocks == runs[2].blocks
    assert runs[0].measured == runs[1].measured == runs[2].measured


def test_propagation_matters_after_the_first_block(tmp_path: Path) -> None:
    content, checkpoint = imported(tiny_checkpoint("llama", tmp_path / "model"), tmp_path / "store")
    pruned, dense = (
        prune_in_process(
            content,
            checkpoint,
            samples(),
            method=Wanda(),
            allocation=Uniform(),
            pattern=Unstructured(sparsity=0.7),
            propagation=propagation,
        )
        for propagation in ("pruned", "dense")
    )
    assert pruned.blocks[0].weights == dense.blocks[0].weights
    assert pruned.blocks[1].weights != dense.blocks[1].weights


@pytest.mark.parametrize("propagation", ["pruned", "linear", "dense"])
def test_going_on_after_stored_blocks_gives_the_same_bits(propagation, tmp_path: Path) -> None:
    content, checkpoint = imported(tiny_checkpoint("llama", tmp_path / "model"), tmp_path / "store")
    undisturbed, *resumed = (
        prune_in_process(
            content,
            checkpoint,
            samples(),
            method=Wanda(),
            allocation=Uniform(),
            pattern=Unstructured(sparsity=0.5),
            propagation=propagation,
            done=done,
        )
        for done in _prefixes(content, checkpoint, propagation)
    )
    assert resumed
    for again in resumed:
        assert again.blocks == undisturbed.blocks


def _prefixes(content, checkpoint, propagation):
    yield ()
    whole = prune_in_process(
        content,
        checkpoint,
        samples(),
        method=Wanda(),
        allocation=Uniform(),
        pattern=Unstructured(sparsity=0.5),
        propagation=propagation,
    ).blocks
    yield from (whole[:count] for count in range(1, len(whole)))


def test_every_linear_may_have_a_sparsity_of_its_own(tmp_path: Path) -> None:
    content, checkpoint = imported(tiny_checkpoint("llama", tmp_path / "model"), tmp_path / "store")
    pruned = prune_in_process(
        content,
        checkpoint,
        samples(),
        method=Wanda(),
        allocation=Owl(multiplier=3, spread=0.2, scope="linear"),
        pattern=Unstructured(sparsity=0.5),
    )
    linears = [linear for stored in pruned.blocks for linear in stored.linears]
    assert len(pruned.measured) == len(linears)
    assert len({round(linear.sparsity, 2) for linear in linears}) > 4
    assert [one.zeros for one in linears] == [pruned.plan.zeros[one.block][one.linear] for one in linears]
    assert sum(one.zeros for one in linears) == round(sum(one.weights for one in linears) / 2)


@pytest.mark.parametrize("kind", KINDS)
def test_linear_propagation_measures_behind_the_pruned_linears(kind: str, tmp_path: Path) -> None:
    """The oracle: per group, the whole model anew with everything before it pruned."""
    content, checkpoint = imported(tiny_checkpoint(kind, tmp_path / "model"), tmp_path / "store")
    got = prune_in_process(
        content,
        checkpoint,
        samples(),
        method=Wanda(),
        allocation=Uniform(),
        pattern=Unstructured(sparsity=0.6),
        propagation="linear",
    )
    worker = SweepWorker(content, checkpoint, samples(), dtype=torch.float32, device=torch.device("cpu"))
    worker.start()
    for stored in got.blocks:
        worker.load(stored.block)
        for g, group in enumerate(worker.linear_groups()):
            worker.measure(advance=False, needs=frozenset({"input_norm"}))
            worker.merge([])
            worker.choose(group, None, Wanda(), got.plan)
            worker.apply([])
            for name in group:
                tensor = worker.work.tensor_name(name)
                assert torch.equal(worker.work.weight(name), got.weights[tensor]), (kind, g, name)
        worker.advance()
