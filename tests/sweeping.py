"""The measuring and pruning stages' loops without Ray: the same SweepWorkers, called one after the other."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.allocations import Allocation
from pipeline.allocations.measures import Measure
from pipeline.artifacts.artifact import FileRef
from pipeline.artifacts.curve import BlockFit
from pipeline.artifacts.refs import CheckpointRef, StatisticsRef
from pipeline.blocks.worker import SweepWorker
from pipeline.checkpoint.prunable import prunable_weights
from pipeline.checkpoint.statistics import read_statistics
from pipeline.checkpoint.stored_block import StoredBlock
from pipeline.methods import OneShot
from pipeline.request.prune_spec import Propagation
from pipeline.spec.patterns import Pattern
from pipeline.spec.reconstruction import BlockReconstruction, steps_of
from pipeline.spec.sparsity_plan import SparsityPlan, Weights
from pipeline.storage import ContentStore
from pipeline.tensor.needs import Needs
from pipeline.tensor.packing import unpack_keep
from pipeline.tensor.statistics import LinearStatistics, merge, share_edges


@dataclass
class Pruned:
    """What one run over a tiny model gave. `measured`: what the allocation asked for, per block or linear.
    `keep` and `weights` by tensor name, weights as [O, I]."""

    plan: SparsityPlan
    measured: tuple[float, ...]
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
    method: OneShot,
    allocation: Allocation,
    pattern: Pattern,
    propagation: Propagation = "pruned",
    reconstruction: BlockReconstruction | None = None,
    workers: int = 1,
    done: Sequence[StoredBlock] = (),
) -> Pruned:
    """Measure, allocate, prune; `done` blocks are replayed as a later attempt does."""
    weights = prunable_weights(content, checkpoint)
    statistics = None
    dense_norms: dict[str, Tensor] = {}
    if samples:
        gang = gang_of(content, checkpoint, samples, workers)
        dense_needs = method.needs if propagation == "dense" else frozenset()
        statistics = measure_in_process(gang, needs=dense_needs | {"input_norm"})
        for block in range(len(weights)):
            gang[0].load(block)
            found = read_statistics(content, statistics, block)
            for group, one in zip(gang[0].linear_groups(), found, strict=True):
                dense_norms |= {gang[0].work.tensor_name(name): one.input_norm_I for name in group}
    measured: tuple[float, ...] = ()
    if allocation.measure is not None:
        worker = gang_of(content, checkpoint, [], 1)[0]
        measured = measured_values(worker, allocation.measure, statistics, weights)
    plan = allocation.plan(pattern, weights, measured=measured)

    gang = gang_of(content, checkpoint, samples, workers)
    for worker in gang:
        if reconstruction is not None:
            worker.reconstruct(reconstruction)
    pruned = Pruned(plan, measured, dense_norms, {}, {}, list(done), gang[0])
    for block in range(len(weights)):
        for worker in gang:
            worker.load(block)
            if reconstruction is not None:
                worker.advance_targets()
        if block < len(done):
            for worker in gang:
                worker.load(block, done[block])
                worker.advance()
            continue
        groups = gang[0].linear_groups()
        found: list[LinearStatistics] | StatisticsRef | None = None
        if not samples or propagation == "dense":
            found = statistics
            _choose(gang, range(len(groups)), found, method, plan, grams=False)
        elif propagation == "linear":
            found = []
            for g in range(len(groups)):
                found.append(merge([worker.reach(g, needs=method.needs) for worker in gang]))
                known = [*(None for _ in range(g)), found[g], *(None for _ in groups[g + 1 :])]
                _choose(gang, [g], known, method, plan)
            for worker in gang:
                worker.finish(advance=False)
        else:
            found = _statistics(gang, advance=False, needs=method.needs)
            _choose(gang, range(len(groups)), found, method, plan)
        fit = None if reconstruction is None else _fit(gang, block, reconstruction, samples=len(samples))
        for worker in gang:
            worker.advance()
        for name, linear in gang[0].chosen().items():
            tensor = gang[0].work.tensor_name(name)
            pruned.keep[tensor] = unpack_keep(linear.packed_keep, tuple(linear.weight_OI.shape))
            pruned.weights[tensor] = gang[0].work.weight(name)
        pruned.blocks.append(gang[0].store(found, fit))
    return pruned


def measure_in_process(gang: Sequence[SweepWorker], *, needs: Needs) -> StatisticsRef:
    """A dense sweep, stored."""
    files: list[FileRef] = []
    blocks = gang[0].num_blocks
    for block in range(blocks):
        for worker in gang:
            worker.load(block)
        similar = "similarity" in needs
        statistics = _statistics(gang, advance=similar or block < blocks - 1, needs=needs)
        found = [one for worker in gang for one in worker.similarities()]
        similarity = sum(found) / len(found) if similar else None
        files.append(gang[0].store_statistics(statistics, similarity))
        if "hessian" in needs:
            for g, one in enumerate(statistics):
                grams = [worker.gram(g) for worker in gang]
                files.append(gang[g % len(gang)].store_hessian(g, one.samples, *grams))
    return StatisticsRef(files=tuple(files))


def measured_values(
    worker: SweepWorker, measure: Measure, statistics: StatisticsRef | None, weights: Weights
) -> tuple[float, ...]:
    """What the stage makes of a measure, flat."""
    given = statistics if measure.needs_samples else None
    found = [worker.measured(block, measure, given) for block in range(len(weights))]
    if measure.scope == "block":
        return tuple(one[""] for one in found)
    return tuple(one[name] for one, block in zip(found, weights, strict=True) for name in block)


def _choose(gang, groups, measured, method, plan, *, grams=True) -> None:
    for g in groups:
        held = [worker.gram(g) for worker in gang] if grams and "hessian" in method.needs else []
        gang[g % len(gang)].choose(gang[0].linear_groups()[g], measured, method, plan, *held)
    parts = [worker.chosen() for worker in gang]
    for i, worker in enumerate(gang):
        worker.apply(*parts[:i], *parts[i + 1 :])


def _fit(gang, block, reconstruction, *, samples) -> BlockFit:
    before = [distance for worker in gang for distance in worker.begin_fit()]
    for step in range(steps_of(reconstruction, samples=samples)):
        gradients = [worker.fit_gradient(step) for worker in gang]
        for worker in gang:
            worker.fit_step(*gradients)
    after = [distance for worker in gang for distance in worker.fit_distances()]
    for worker in gang:
        worker.end_fit(take=sum(after) < sum(before))
    means = sum(before) / samples, min(sum(before), sum(after)) / samples
    return BlockFit(block=block, before=means[0], after=means[1])


def gang_of(
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


def _statistics(gang: Sequence[SweepWorker], *, advance: bool, needs: Needs) -> list[LinearStatistics]:
    shares = [worker.measure(advance=advance, needs=needs) for worker in gang]
    return [merge(group) for group in zip(*shares, strict=True)]
