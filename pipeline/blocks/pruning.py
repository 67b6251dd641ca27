"""Prunes block by block: measures a block, chooses masks, stores the block, and continues with the pruned
block's outputs.

Every finished block is recorded, and a later attempt continues after it.
"""

from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass

from pipeline.artifacts.curve import BlockFit, BlockFits
from pipeline.artifacts.refs import CheckpointRef, KeepRef, StatisticsRef
from pipeline.artifacts.sparsity import BlockExperts, ExpertTable
from pipeline.blocks.block import Measured
from pipeline.blocks.crew import Crew, Pending
from pipeline.blocks.reconstruction import fit_block
from pipeline.blocks.routing import MINIMUM_TOKENS
from pipeline.blocks.sharing import Size, ranking_cost, shared_by_cost, solving_cost
from pipeline.blocks.steps import Note, Progress
from pipeline.blocks.trail import Trail
from pipeline.blocks.worker import SweepWorker
from pipeline.checkpoint.assemble import StoredTensors, assemble
from pipeline.checkpoint.keeps import keep_ref
from pipeline.checkpoint.stored_block import StoredBlock
from pipeline.methods import BlockMethod
from pipeline.spec.propagation import Propagation
from pipeline.spec.reconstruction import BlockReconstruction
from pipeline.spec.sparsity_plan import SparsityPlan
from pipeline.storage.content import ContentStore
from pipeline.storage.progress import StageProgress
from pipeline.tensor.statistics import LinearStatistics


@dataclass(frozen=True)
class Pruning:
    """The settings of a pruning of all blocks.

    `samples`: the number of calibration samples that the crew holds. `statistics`: those of the dense model,
    for `propagation: dense`. `block_0`: statistics of block 0 from an earlier sweep, if any; its inputs are
    the same in the dense model. `reproducible`: see Crew.
    """

    method: BlockMethod
    plan: SparsityPlan
    propagation: Propagation
    samples: int
    reconstruction: BlockReconstruction | None = None
    statistics: StatisticsRef | None = None
    block_0: tuple[LinearStatistics, ...] | None = None
    reproducible: bool = True


@dataclass(frozen=True)
class PrunedBlocks:
    """All blocks, pruned and stored, and all tensors outside the blocks, unchanged."""

    blocks: tuple[StoredBlock, ...]
    outer: StoredTensors
    experts: ExpertTable | None


def prune_blocks(
    crew: Crew, pruning: Pruning, *, progress: StageProgress | None = None
) -> Generator[Progress | Note, None, PrunedBlocks]:
    """Prunes all blocks. A block runs twice with `propagation: pruned` (the first time not to its end), once
    with `linear`, and not at all with `dense`, whose statistics were measured before. Reconstruction adds
    runs of its own. With `progress`, finished blocks are recorded, and those of an earlier attempt are
    found."""

    def whole(block: StoredBlock) -> bool:
        blobs = (block.weights.file.blob, block.keep.blob)
        return progress is not None and all(progress.content.has(blob) for blob in blobs)

    crew.reproducible = pruning.reproducible
    with Trail(crew, progress, StoredBlock, whole=whole, samples=pruning.samples) as trail:
        if pruning.reconstruction is not None:
            crew.all(SweepWorker.reconstruct, pruning.reconstruction)
        crew.hear(crew.ask(0, SweepWorker.begin_outer))
        yield from trail.resume()
        for block in range(crew.blocks):
            crew.label = f"block {block + 1}/{crew.blocks}"
            if trail.reached <= block < trail.found:
                _pass_by(crew, pruning, trail, block)
            elif block >= trail.found:
                before = _prune_block(crew, pruning, trail, block)
                if before is not None:
                    yield from _finished(trail, crew.answer(before))
                if trail.must_leave(block + 1):
                    yield from _finished(trail, crew.answer(_stored(crew, pruning, block)))
                    trail.leave(block + 1)
                trail.enter(block + 1)
            yield from trail.told()
        if trail.found < crew.blocks:
            yield from _finished(trail, crew.answer(_stored(crew, pruning, crew.blocks - 1)))
        outer_tensors = crew.answer(crew.ask(0, SweepWorker.outer))
        yield from trail.end()
        experts = _expert_table(trail.done)
        if experts is not None and experts.note is not None:
            yield Note(experts.note, level="warning")
        return PrunedBlocks(tuple(trail.done), outer_tensors, experts)


def pruned_checkpoint(content: ContentStore, dense: CheckpointRef, pruned: PrunedBlocks) -> CheckpointRef:
    """Assembles the stored blocks into a checkpoint, with the small files of the dense one."""
    return assemble(content, dense, [pruned.outer, *(block.weights for block in pruned.blocks)])


def pruned_keep(content: ContentStore, pruned: PrunedBlocks) -> KeepRef:
    """Collects the keep tensors of all blocks, with the tables of experts and of fits if there are any."""
    linears = [linear for block in pruned.blocks for linear in block.linears]
    found = tuple(block.fit for block in pruned.blocks if block.fit is not None)
    fits = BlockFits(blocks=found) if found else None
    keeps = [block.keep for block in pruned.blocks]
    return keep_ref(content, keeps, linears, experts=pruned.experts, fits=fits)


def _finished(trail: Trail[StoredBlock], stored: StoredBlock) -> Iterator[Note]:
    """Has a finished block recorded, and reports its notes."""
    trail.add(stored)
    for linear in stored.linears:
        if linear.note is not None:
            yield Note(f"block {stored.block} {linear.linear}: {linear.note}", level="warning")


def _storer(crew: Crew, pruning: Pruning, block: int) -> int:
    """Returns the worker that stores a block. They take turns, unless only worker 0 has the block."""
    return block % crew.size if pruning.samples else 0


def _stored(crew: Crew, pruning: Pruning, block: int) -> Pending[StoredBlock]:
    """Returns the record of a block, once it is stored."""
    return crew.ask(_storer(crew, pruning, block), SweepWorker.stored, block)


def _prune_block(
    crew: Crew, pruning: Pruning, trail: Trail[StoredBlock], block: int
) -> Pending[StoredBlock] | None:
    """Prunes one block, begins to store it, and advances the activations past it. Returns the record of the
    block before, if this attempt pruned it, which may be there earlier than the advanced activations."""
    method, propagation = pruning.method, pruning.propagation
    runs_on = pruning.samples > 0 and block < crew.blocks - 1
    pauses = False
    crew.tell(SweepWorker.load, block, then=trail.ahead(block))
    if pruning.reconstruction is not None:
        crew.tell(SweepWorker.advance_targets)
    asked = crew.ask(0, SweepWorker.sized_groups)
    measured: Measured | None = pruning.statistics
    if not method.needs or propagation == "dense":
        _choose(crew, pruning, crew.answer(asked), measured, known=True)
    elif propagation == "linear":
        measured = None
        _one_by_one(crew, pruning, crew.answer(asked))
        pauses = runs_on and pruning.reconstruction is None  # the forward continues after the pruning
        if not pauses:
            crew.tell(SweepWorker.finish, advance=False)
    else:
        measured = pruning.block_0 if block == 0 else None
        if measured is None:
            crew.measure(advance=False, needs=method.needs)
        _choose(crew, pruning, crew.answer(asked), measured)
    fit: BlockFit | None = None
    if pruning.reconstruction is not None:
        fit = fit_block(crew, block, pruning.reconstruction, samples=pruning.samples)
    crew.hear(crew.ask(_storer(crew, pruning, block), SweepWorker.store, measured, fit))
    before = _stored(crew, pruning, block - 1) if block > trail.found else None
    if pauses:
        crew.tell(SweepWorker.finish, advance=True)
    elif runs_on:
        crew.tell(SweepWorker.advance)
    return before


def _pass_by(crew: Crew, pruning: Pruning, trail: Trail[StoredBlock], block: int) -> None:
    """Advances the activations past a block that an earlier attempt has finished."""
    stored = trail.done[block]
    ahead = trail.ahead(block)
    if pruning.reconstruction is not None:
        crew.tell(SweepWorker.load, block, then=(block, stored))
        crew.tell(SweepWorker.advance_targets)
        ahead = None if ahead is None else (ahead[0], None)  # the dense block comes first
    crew.tell(SweepWorker.load, block, stored, then=ahead)
    crew.all(SweepWorker.advance)


def _one_by_one(crew: Crew, pruning: Pruning, groups: Sequence[Mapping[str, Size]]) -> None:
    """Measures and prunes the groups of linears in their order, each with the earlier ones already pruned."""
    for g, group in enumerate(groups):
        crew.reach(g, needs=pruning.method.needs)
        _choose(crew, pruning, [group], None, first=g)


def _choose(
    crew: Crew,
    pruning: Pruning,
    groups: Sequence[Mapping[str, Size]],
    measured: Measured | None,
    *,
    first: int = 0,
    known: bool = False,
) -> None:
    """Distributes the linears of some groups over the workers by their cost, and applies all decisions on
    every worker. `measured`: statistics from an earlier walk; without them, those of this one count. `first`:
    the number of the first group. `known`: nothing was measured now, so that there are no grams."""
    solves = "hessian" in pruning.method.needs
    if solves:  # a group is not split, so that its Hessian is assembled once
        units = [list(group) for group in groups]
        shares = shared_by_cost([solving_cost(group.values()) for group in groups], crew.size)
    else:
        units = [[linear] for group in groups for linear in group]
        costs = [ranking_cost(size) for group in groups for size in group.values()]
        shares = shared_by_cost(costs, crew.size)
    if solves and not known:  # all sums come first, so that nobody waits for one while another worker solves
        solver = {unit: worker for worker, share in enumerate(shares) for unit in share}
        for unit in range(len(units)):
            crew.sum_up(SweepWorker.gram, SweepWorker.take_gram, [solver[unit]], first + unit)
    for worker, share in enumerate(shares):
        mine = [units[unit] for unit in share]
        if not solves and mine:
            mine = [[linear for unit in mine for linear in unit]]  # one call is enough
        for linears in mine:
            told = crew.ask(worker, SweepWorker.choose, linears, measured, pruning.method, pruning.plan)
            crew.hear(told)
    decided = [linear for unit in units for linear in unit]
    storing = range(crew.size if pruning.samples else 1)  # without samples only worker 0 needs the block
    crew.spread(SweepWorker.chosen, SweepWorker.apply, storing, decided)


def _expert_table(blocks: Sequence[StoredBlock]) -> ExpertTable | None:
    """Returns the calibration tokens per expert, or None where they were not counted."""
    found = [BlockExperts(block=one.block, tokens=one.expert_tokens) for one in blocks if one.expert_tokens]
    return ExpertTable(minimum_tokens=MINIMUM_TOKENS, blocks=tuple(found)) if found else None
