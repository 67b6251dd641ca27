"""Activations: in memory or in a file, stored and restored, they are the same."""

import itertools
from pathlib import Path

import pytest
import torch

from pipeline.blocks.activations import Activations, MemoryBudget, StoredActivations
from pipeline.blocks.snapshot_copy import StoredPart
from pipeline.blocks.worker import SweepWorker
from pipeline.errors import CorruptObject
from pipeline.storage import LocalStore
from pipeline.tensor.statistics import share_edges
from tests.checkpoints import imported
from tests.models import tiny_checkpoint
from tests.pipeline.blocks.test_sweep import samples


def made(count: int, *, dtype: torch.dtype = torch.float32, seed: int = 0) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(1, 5, 3, generator=generator).to(dtype) for _ in range(count)]


def stored(hidden: Activations, store: LocalStore, key: str, *, first: int) -> StoredPart | None:
    copy = hidden.copy(first=first)
    copy.make()
    return copy.store(store, key)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("fits", [0, 2, 7])
def test_what_does_not_fit_comes_back_from_the_file(dtype: torch.dtype, fits: int) -> None:
    size = 15 * dtype.itemsize
    budget = MemoryBudget(left=fits * size + 1)
    held = Activations(iter(made(7, dtype=dtype)), budget=budget)
    assert held.spilled_bytes == (7 - fits) * size
    assert budget.left == 1
    assert all(map(torch.equal, held, made(7, dtype=dtype)))
    for i, one in enumerate(made(7, dtype=dtype, seed=1)):
        held[i] = one
    assert all(map(torch.equal, held, made(7, dtype=dtype, seed=1)))
    assert len(list(held)) == 7


def test_several_share_a_budget() -> None:
    budget = MemoryBudget(left=60 * 9)
    first, second = (Activations(iter(made(6)), budget=budget) for _ in range(2))
    assert (first.spilled_bytes, second.spilled_bytes) == (0, 3 * 60)


def test_other_workers_go_on_from_what_was_stored(tmp_path: Path) -> None:
    store, hidden = LocalStore(tmp_path), made(7)
    edges = share_edges(7, 2)
    parts = []
    for first, end in itertools.pairwise(edges):
        part = stored(Activations(iter(hidden[first:end]), budget=None), store, f"a/{first}", first=first)
        assert part is not None
        parts.append(part)
    assert stored(Activations(iter(()), budget=None), store, "a/none", first=7) is None
    for workers in (1, 3, 7):
        edges = share_edges(7, workers)
        for first, end in itertools.pairwise(edges):
            got = Activations(iter(made(end - first, seed=9)), budget=MemoryBudget(left=70))
            got.restore(store, parts, first=first)
            assert all(map(torch.equal, got, hidden[first:end]))
    data = bytearray((tmp_path / "a/0").read_bytes())
    data[-1] ^= 1
    (tmp_path / "a/0").write_bytes(data)
    with pytest.raises(CorruptObject, match="has changed"):
        Activations(iter(made(7)), budget=None).restore(store, parts, first=0)


@torch.no_grad()
def test_a_walk_with_no_memory_and_one_that_was_interrupted_give_the_same_bits(tmp_path: Path) -> None:
    content, checkpoint = imported(tiny_checkpoint("llama", tmp_path / "model"), tmp_path / "store")

    def worker(first: int = 0, end: int = 6, budget: MemoryBudget | None = None) -> SweepWorker:
        started = SweepWorker(
            content,
            checkpoint,
            samples()[first:end],
            dtype=torch.float32,
            device=torch.device("cpu"),
            first=first,
            samples=6,
            budget=budget,
        )
        started.start()
        return started

    def walked(walker: SweepWorker, first: int, end: int) -> SweepWorker:
        for block in range(first, end):
            walker.load(block)
            walker.advance()
        return walker

    plain, spilled = walked(worker(), 0, 4), walked(worker(budget=MemoryBudget(left=0)), 0, 4)
    assert (plain.spilled(), spilled.spilled() > 0) == (0, True)
    interrupted = walked(worker(), 0, 2)
    interrupted.begin_snapshot("progress/x/activations-00002")
    walked(interrupted, 2, 4)  # what goes on meanwhile does not change what is stored
    parts = interrupted.snapshot(wait=True)
    assert parts is not None
    record = StoredActivations(block=2, parts={name: (part,) for name, part in parts.items()})
    halves = [worker(0, 3), worker(3, 6)]
    for half in halves:
        half.restore_activations(record)
        walked(half, 2, 4)
    losses = [one.losses([15] * 6) for one in (plain, spilled)]
    assert losses[0] == losses[1] == [loss for half in halves for loss in half.losses([15] * 3)]
