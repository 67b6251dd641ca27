"""Masks block by block; every finished block is stored, and a later attempt goes on after it."""

import math
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import ray

from pipeline.artifacts.curve import BlockFit, BlockFits
from pipeline.artifacts.refs import KeepRef, StatisticsRef
from pipeline.artifacts.sparsity import BlockExperts, ExpertTable
from pipeline.blocks.routing import MINIMUM_TOKENS
from pipeline.checkpoint.assemble import StoredTensors, assemble
from pipeline.checkpoint.keeps import keep_ref
from pipeline.checkpoint.statistics import read_statistics
from pipeline.checkpoint.stored_block import StoredBlock
from pipeline.dag.stages import stage_key
from pipeline.dag.stages.pruning import MeasureStatistics, PruneBlocks
from pipeline.errors import NumericalError
from pipeline.job.ledger import find_result, progress_key
from pipeline.spec.reconstruction import BlockReconstruction, steps_of
from pipeline.spec.sparsity_plan import SparsityPlan
from pipeline.storage.content import ContentStore
from pipeline.tensor.statistics import LinearStatistics
from workers.gang.gang import Gang
from workers.gang.keeper import GangKeeper
from workers.gang.snapshots import Snapshots
from workers.samples import load_samples
from workers.stages.base import Note, Progress, StageContext, Steps


def run(stage: PruneBlocks, context: StageContext, keeper: GangKeeper) -> Steps:
    """A block runs twice with `propagation: pruned` (but the first time not to its end), once with `linear`,
    and not at all with `dense`: what is needed of it was measured by the stage before. Reconstruction adds
    its own."""
    content = context.content
    plan = context.load("plan", SparsityPlan)
    samples = load_samples(context) if "samples" in context.inputs else []
    done = _stored_blocks(content, context.key)
    with keeper.turn() as turn, ExitStack() as held:
        workers, blocks = yield from turn.open(context, samples, dtype=stage.compute_dtype)
        pruning = _Pruning(workers, stage, context, plan, blocks=blocks, samples=len(samples))
        outer = workers.one(0, "store_outer")
        snapshots = held.enter_context(Snapshots(workers, context))
        reached = len(done)  # its inputs are with the workers
        if done:
            if samples and len(done) < blocks:
                reached = snapshots.restore(at_most=len(done))
            yield Note(f"{len(done)} of {blocks} blocks are stored already; going on from block {reached}")
        for block in range(blocks):
            label = f"block {block + 1}/{blocks}"
            if reached <= block < len(done):
                pruning.pass_by(block, done[block], label=label)
            elif block >= len(done):
                [stored] = workers.wait([pruning.block(block, label=label)])
                taken = snapshots.take(block + 1) if samples and block + 1 < blocks else None
                content.put_model(progress_key(context.key, f"block-{block:05d}"), stored)
                done.append(stored)
                for linear in stored.linears:
                    if linear.note is not None:
                        yield Note(f"block {block} {linear.linear}: {linear.note}", level="warning")
                if taken is not None:
                    snapshots.keep(taken)
            yield Progress(block + 1, blocks)
        [outer_tensors] = workers.wait([outer])
        use = workers.use()
        snapshots.forget()
    experts = _expert_table(done)
    if experts is not None and experts.note is not None:
        yield Note(experts.note, level="warning")
    parts: list[StoredTensors] = [outer_tensors, *(block.weights for block in done)]
    checkpoint = assemble(content, context.checkpoint(), parts)
    yield use.made({"checkpoint": checkpoint, "keep": _keep(content, done, experts)})


class _Pruning:
    """What pruning one block after the other shares."""

    def __init__(
        self,
        workers: Gang,
        stage: PruneBlocks,
        context: StageContext,
        plan: SparsityPlan,
        *,
        blocks: int,
        samples: int,
    ) -> None:
        self._workers = workers
        self._stage = stage
        self._needs = stage.method.needs
        self._plan = ray.put(plan)
        self._blocks = blocks
        self._context = context
        self._samples = samples
        self._reconstruction = stage.reconstruction
        if stage.reconstruction is not None:
            workers.all("reconstruct", stage.reconstruction)
        statistics = context.inputs.get("statistics")
        self._statistics = statistics if isinstance(statistics, StatisticsRef) else None

    def block(self, block: int, *, label: str) -> Any:
        """Prune and store one block, and bring the activations past it, which may take longer. A reference to
        the StoredBlock."""
        workers, propagation = self._workers, self._stage.propagation
        runs_on = self._samples > 0 and block < self._blocks - 1
        pauses = False
        workers.tell("load", block, label=label)
        if self._reconstruction is not None:
            workers.tell("advance_targets", label=label)
        asked = workers.one(0, "linear_groups")
        measured: list[LinearStatistics] | StatisticsRef | None = self._statistics
        if not self._needs or propagation == "dense":
            self._choose(*workers.wait([asked]), measured, known=True, label=label)
        elif propagation == "linear":
            measured = self._one_by_one(*workers.wait([asked]), label=label)
            pauses = runs_on and self._reconstruction is None  # in the middle of what runs on
            if not pauses:
                workers.tell("finish", advance=False, label=label)
        else:
            measured = self._earlier(block)
            if measured is None:
                measured = workers.statistics(advance=False, needs=self._needs, label=label)
            self._choose(*workers.wait([asked]), measured, label=label)
        fit = None if self._reconstruction is None else self._fit(block, self._reconstruction, label=label)
        stored = workers.one(0, "store", measured, fit, label=label)
        if pauses:
            workers.tell("finish", advance=True, label=label)
        elif runs_on:
            workers.tell("advance", label=label)
        return stored

    def pass_by(self, block: int, stored: StoredBlock, *, label: str) -> None:
        """Bring the activations past a block that an earlier attempt has finished."""
        if self._reconstruction is not None:
            self._workers.tell("load", block, label=label)
            self._workers.tell("advance_targets", label=label)
        self._workers.tell("load", block, stored, label=label)
        self._workers.all("advance", label=label)

    def _one_by_one(self, groups: Sequence[Sequence[str]], *, label: str) -> list[LinearStatistics]:
        measured: list[LinearStatistics] = []
        for g, group in enumerate(groups):
            measured.append(self._workers.reached(g, needs=self._needs, label=label))
            known = [*(None for _ in range(g)), measured[g], *(None for _ in groups[g + 1 :])]
            self._choose([group], known, first=g, label=label)
        return measured

    def _choose(
        self,
        groups: Sequence[Sequence[str]],
        measured: Sequence[LinearStatistics | None] | StatisticsRef | None,
        *,
        first: int = 0,
        known: bool = False,
        label: str,
    ) -> None:
        """Share the linears of some groups (from number `first` on) out over the workers, and tell all of
        them what was decided. `known`: statistics were there before, so that there are no grams."""
        workers = self._workers
        gang = range(len(workers.actors))
        calls: list[tuple[Sequence[str], list[Any]]]
        if "hessian" in self._needs:  # put together once, where all linears that share it are solved
            calls = [
                (group, [] if known else workers.grams(first + g, label=label))
                for g, group in enumerate(groups)
            ]
        else:
            linears = [linear for group in groups for linear in group]
            shares = [linears[i :: len(gang)] for i in gang]
            calls = [(share, []) for share in shares if share]
        given = measured, self._stage.method, self._plan
        for i, (asked, grams) in enumerate(calls):
            workers.hear(workers.one(i % len(gang), "choose", asked, *given, *grams, label=label))
        decided = [linear for asked, _ in calls for linear in asked]
        chosen = [workers.one(i, "chosen", decided, label=label) for i in gang] if len(gang) > 1 else []
        told = gang if self._samples else gang[:1]  # who stores the block
        for i in told:
            workers.hear(workers.one(i, "apply", *chosen[:i], *chosen[i + 1 :], label=label))

    def _fit(self, block: int, spec: BlockReconstruction, *, label: str) -> BlockFit:
        """Every worker takes the same steps; what did not bring the block nearer is not taken."""
        workers = self._workers
        gang = range(len(workers.actors))
        before = _mean(workers.all("begin_fit", label=label))
        for step in range(steps_of(spec, samples=self._samples)):
            gradients = [workers.one(i, "fit_gradient", step, label=label) for i in gang]
            workers.all("fit_step", *gradients, label=label)
        after = _mean(workers.all("fit_distances", label=label))
        workers.all("end_fit", take=after < before, label=label)
        return BlockFit(block=block, before=before, after=min(before, after))

    def _earlier(self, block: int) -> list[LinearStatistics] | None:
        """Block 0 sees the same in the dense model: what an allocation had measured there serves again."""
        if block > 0 or self._needs != {"input_norm"}:
            return None
        sweep = MeasureStatistics(needs=("input_norm",), compute_dtype=self._stage.compute_dtype)
        inputs = {name: self._context.inputs[name] for name in ("checkpoint", "samples")}
        result = find_result(self._context.content, stage_key(sweep, inputs))
        if result is None:
            return None
        ref = result.artifacts["statistics"]
        assert isinstance(ref, StatisticsRef)
        return read_statistics(self._context.content, ref, block)


def _stored_blocks(content: ContentStore, key: str) -> list[StoredBlock]:
    """The finished blocks of earlier attempts, from block 0 without a gap, whose blobs are all there."""
    stored: list[StoredBlock] = []
    while (
        block := content.find_model(progress_key(key, f"block-{len(stored):05d}"), StoredBlock)
    ) is not None:
        if not (content.has(block.weights.file.blob) and content.has(block.keep.blob)):
            break
        stored.append(block)
    return stored


def _mean(shares: Sequence[Sequence[float]]) -> float:
    """Of all samples' distances."""
    distances = [distance for share in shares for distance in share]
    mean = math.fsum(distances) / len(distances)
    if not math.isfinite(mean):
        raise NumericalError(
            f"the distance of a pruned block to the dense one is {mean}; check the checkpoint, or set "
            f"compute_dtype to float32"
        )
    return mean


def _expert_table(blocks: Sequence[StoredBlock]) -> ExpertTable | None:
    """None where tokens of experts were not counted."""
    found = [BlockExperts(block=one.block, tokens=one.expert_tokens) for one in blocks if one.expert_tokens]
    return ExpertTable(minimum_tokens=MINIMUM_TOKENS, blocks=tuple(found)) if found else None


def _keep(content: ContentStore, blocks: Sequence[StoredBlock], experts: ExpertTable | None) -> KeepRef:
    linears = [linear for block in blocks for linear in block.linears]
    found = tuple(block.fit for block in blocks if block.fit is not None)
    fits = BlockFits(blocks=found) if found else None
    return keep_ref(content, [block.keep for block in blocks], linears, experts=experts, fits=fits)
