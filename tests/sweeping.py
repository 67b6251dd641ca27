"""The prune stage's loop without Ray: the same SweepWorkers, called one after the other."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from pipeline.allocations import Allocation
from pipeline.artifacts import CheckpointRef
from pipeline.methods import Method
from pipeline.methods.base import Needs
from pipeline.patterns import Pattern
from pipeline.plan import SparsityPlan
from pipeline.storage import ContentStore
from pipeline.tensor.packing import unpack_keep
from pipeline.tensor.statistics import LinearStatistics, merge, share_edges
from pipeline.tensor.sweep import StoredBlock, SweepWorker


@dataclass
class Pruned:
    """What one run over a tiny model gave. `keep` and `weights` by tensor name, weights as [O, I]."""

    plan: SparsityPlan
    ratios: tuple[float, ...]
    dense_norms: dict[str, Tensor]
    keep: dict[str, Tensor]
    weights: dict[str, Tensor]
    blocks: list[StoredBlock]
    worker: SweepWorker


def prune_in_process(
    content: ContentStore,
    checkpoint: CheckpointRef,
    samples: Sequence[Tensor],
    *,
    method: Method,
    allocation: Allocation,
    pattern: Pattern,
    propagation: Literal["pruned", "dense"] = "pruned",
    workers: int = 1,
    done: Sequence[StoredBlock] = (),
) -> Pruned:
    """Measure, allocate, prune; `done` blocks are replayed as a later attempt does."""
    ratios: tuple[float, ...] = ()
    dense_norms: dict[str, Tensor] = {}
    gang = _gang(content, checkpoint, samples, workers)
    blocks = gang[0].num_blocks
    if samples:
        for block in range(blocks):
            _load(gang, block)
            statistics = _statistics(gang, advance=True, needs=frozenset({"input_norm"}))
            if allocation.outlier_multiplier is not None:
                ratios += (gang[0].outlier_ratio(statistics, allocation.outlier_multiplier),)
            for group, one in zip(gang[0].linear_groups(), statistics, strict=True):
                for name in group:
                    dense_norms[gang[0].tensor_name(name)] = one.input_norm_I
    plan = allocation.plan(pattern, blocks=blocks, outlier_ratios=ratios)

    gang = _gang(content, checkpoint, samples, workers)
    keep: dict[str, Tensor] = {}
    weights: dict[str, Tensor] = {}
    stored: list[StoredBlock] = []
    for block in range(blocks):
        if block < len(done):
            for worker in gang:
                worker.load(block, None if propagation == "dense" else done[block])
                worker.advance()
            stored.append(done[block])
            continue
        _load(gang, block)
        measured = None
        if samples:
            measured = _statistics(gang, advance=propagation == "dense", needs=method.needs)
        for g, group in enumerate(gang[0].linear_groups()):
            grams = [worker.gram(g) for worker in gang] if "hessian" in method.needs else []
            gang[g % len(gang)].choose(group, measured, method, plan.blocks[block], *grams)
        parts = [worker.chosen() for worker in gang]
        for i, worker in enumerate(gang):
            worker.apply(*parts[:i], *parts[i + 1 :])
        for part in parts:
            for name, linear in part.items():
                shape = tuple(linear.weight_OI.shape)
                keep[gang[0].tensor_name(name)] = unpack_keep(linear.packed_keep, shape)
                weights[gang[0].tensor_name(name)] = linear.weight_OI
        stored.append(gang[0].store(measured))
        if samples and propagation == "pruned":
            for worker in gang:
                worker.advance()
    return Pruned(plan, ratios, dense_norms, keep, weights, stored, gang[0])


def _gang(
    content: ContentStore, checkpoint: CheckpointRef, samples: Sequence[Tensor], workers: int
) -> list[SweepWorker]:
    edges = share_edges(len(samples), workers)
    gang = [
        SweepWorker(
            content,
            checkpoint,
            samples[edges[i] : edges[i + 1]],
            dtype=torch.float32,
            device=torch.device("cpu"),
            first=edges[i],
            samples=len(samples),
        )
        for i in range(workers)
    ]
    for worker in gang:
        worker.start()
    return gang


def _load(gang: Sequence[SweepWorker], block: int) -> None:
    for worker in gang:
        worker.load(block)


def _statistics(gang: Sequence[SweepWorker], *, advance: bool, needs: Needs) -> list[LinearStatistics]:
    shares = [worker.measure(advance=advance, needs=needs) for worker in gang]
    return [merge(group) for group in zip(*shares, strict=True)]
