"""Runs the production loops on a crew in this process, for tests on tiny models."""

from collections.abc import Sequence
from dataclasses import dataclass

from safetensors.torch import load
from torch import Tensor

from pipeline.allocations import Allocation
from pipeline.allocations.measures import Measure
from pipeline.architecture.rows import row_for
from pipeline.artifacts.refs import CheckpointRef, StatisticsRef
from pipeline.blocks.local import LocalCrew
from pipeline.blocks.measuring import measure_statistics, measure_values
from pipeline.blocks.pruning import PrunedBlocks, Pruning, prune_blocks
from pipeline.blocks.steps import run_through
from pipeline.checkpoint.keeps import held_tensors, turned
from pipeline.checkpoint.prunable import prunable_weights
from pipeline.checkpoint.reader import CheckpointReader, read_tensor
from pipeline.checkpoint.statistics import read_statistics
from pipeline.checkpoint.stored_block import StoredBlock
from pipeline.methods import OneShot
from pipeline.spec.patterns import Pattern
from pipeline.spec.propagation import Propagation
from pipeline.spec.reconstruction import BlockReconstruction
from pipeline.spec.sparsity_plan import SparsityPlan
from pipeline.storage import ContentStore
from pipeline.storage.progress import StageProgress
from pipeline.tensor.needs import Needs
from pipeline.tensor.packing import unpack_keep


@dataclass
class Pruned:
    """The result of one run over a tiny model. `measured` holds the values that the allocation needs, per
    block or linear; `keep` and `weights` are by tensor name, weights as [O, I]."""

    plan: SparsityPlan
    measured: tuple[float, ...]
    dense_norms: dict[str, Tensor]
    keep: dict[str, Tensor]
    weights: dict[str, Tensor]
    made: PrunedBlocks

    @property
    def blocks(self) -> tuple[StoredBlock, ...]:
        """The pruned blocks as they are stored."""
        return self.made.blocks


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
    """Measure, allocate and prune. Blocks in `done` are already stored, as for a later attempt."""
    weights = prunable_weights(content, checkpoint)
    statistics = None
    dense_norms: dict[str, Tensor] = {}
    if samples:
        crew = LocalCrew(content, checkpoint, samples, workers=workers)
        dense_needs = method.needs if propagation == "dense" else frozenset()
        statistics = measured_statistics(crew, needs=dense_needs | {"input_norm"}, samples=len(samples))
        for block in range(crew.blocks):
            first = crew.workers[0]
            first.load(block)
            found = read_statistics(content, statistics, block)
            for group, one in zip(first.linear_groups(), found, strict=True):
                dense_norms |= {first.work.tensor_name(name): one.input_norm_I for name in group}
    measured: tuple[float, ...] = ()
    if allocation.measure is not None:
        crew = LocalCrew(content, checkpoint, [])
        measured = measured_values(crew, allocation.measure, statistics)
    plan = allocation.plan(pattern, weights, measured=measured)

    crew = LocalCrew(content, checkpoint, samples, workers=workers)
    pruning = Pruning(
        method=method,
        plan=plan,
        propagation=propagation,
        samples=len(samples),
        reconstruction=reconstruction,
        statistics=statistics if not samples or propagation == "dense" else None,
    )
    progress = StageProgress(content, "0" * 64) if done else None
    for one in done:
        assert progress is not None
        progress.put_block(one.block, one)
    made = run_through(prune_blocks(crew, pruning, progress=progress))
    keep, new = _stored(content, checkpoint, made.blocks)
    return Pruned(plan, measured, dense_norms, keep, new, made)


def measured_statistics(crew: LocalCrew, *, needs: Needs, samples: int) -> StatisticsRef:
    """The stored statistics of a dense pass over the blocks."""
    return run_through(measure_statistics(crew, needs, samples=samples))


def measured_values(crew: LocalCrew, measure: Measure, statistics: StatisticsRef | None) -> tuple[float, ...]:
    """The values of a measure for all blocks, in one flat tuple."""
    found = run_through(measure_values(crew, measure, statistics if measure.needs_samples else None))
    return tuple(value for block in found for value in block.values())


def _stored(
    content: ContentStore, checkpoint: CheckpointRef, blocks: Sequence[StoredBlock]
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The keep tensors and new weights of pruned blocks, read from storage as a later stage does."""
    reader = CheckpointReader(content, checkpoint)
    row = row_for(str(reader.config["model_type"]))
    held = {one.name: one.linear for one in held_tensors(row, reader.index.tensors)}
    keep: dict[str, Tensor] = {}
    weights: dict[str, Tensor] = {}
    for stored in blocks:
        blob, entries = stored.weights.file.blob, stored.weights.tensors
        for name, packed in load(content.get_bytes(stored.keep.blob)).items():
            stored_weight = read_tensor(content, blob, entries[name], name=name)
            weights[name] = turned(stored_weight, row, held[name]).contiguous()
            keep[name] = unpack_keep(packed, tuple(weights[name].shape))
    return keep, weights
