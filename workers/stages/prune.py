"""Masks block by block; every finished block is stored, and a later attempt goes on after it."""

from collections.abc import Sequence
from typing import Any

import ray

from pipeline.artifacts import BlockExperts, ExpertTable, KeepRef, StatisticsRef
from pipeline.checkpoint.assemble import StoredTensors, assemble
from pipeline.checkpoint.keeps import keep_ref
from pipeline.checkpoint.statistics import read_statistics
from pipeline.ledger import find_result, progress_key
from pipeline.plan import SparsityPlan
from pipeline.stages import MeasureStatistics, PruneBlocks, stage_key
from pipeline.storage.content import ContentStore
from pipeline.tensor.block import StoredBlock
from pipeline.tensor.routing import MINIMUM_TOKENS
from pipeline.tensor.statistics import LinearStatistics
from workers.gang import Gang, GangKeeper
from workers.samples import load_samples
from workers.stages.base import Note, Progress, StageContext, Steps


def run(stage: PruneBlocks, context: StageContext, keeper: GangKeeper) -> Steps:
    """A block runs twice with `propagation: pruned` (but the first time not to its end), once with `linear`,
    and not at all with `dense`: what is needed of it was measured by the stage before."""
    content = context.content
    plan = SparsityPlan.model_validate_json(context.read("plan", "plan.json"))
    samples = load_samples(context) if "samples" in context.inputs else []
    done = _stored_blocks(content, context.key)
    with keeper.turn() as turn:
        workers, blocks = yield from turn.open(context, samples, dtype=stage.compute_dtype)
        pruning = _Pruning(workers, stage, context, plan, blocks=blocks)
        outer = workers.one(0, "store_outer")
        if done:
            yield Note(f"{len(done)} of {blocks} blocks are stored already")
        for block in range(blocks):
            label = f"block {block + 1}/{blocks}"
            if block < len(done):
                if samples:  # bring the activations past it
                    workers.all("load", block, done[block], label=label)
                    workers.all("advance", label=label)
            else:
                stored = pruning.block(block, label=label)
                content.put_model(progress_key(context.key, f"block-{block:05d}"), stored)
                done.append(stored)
                for linear in stored.linears:
                    if linear.note is not None:
                        yield Note(f"block {block} {linear.linear}: {linear.note}", level="warning")
            yield Progress(block + 1, blocks)
        outer_tensors: StoredTensors = ray.get(outer)
        memory = workers.memory()
    experts = _expert_table(done)
    if experts is not None and experts.note is not None:
        yield Note(experts.note, level="warning")
    parts = [outer_tensors, *(block.weights for block in done)]
    checkpoint = assemble(content, context.checkpoint(), parts)
    yield memory.made({"checkpoint": checkpoint, "keep": _keep(content, done, experts)})


class _Pruning:
    """What pruning one block after the other shares."""

    def __init__(
        self, workers: Gang, stage: PruneBlocks, context: StageContext, plan: SparsityPlan, *, blocks: int
    ) -> None:
        self._workers = workers
        self._stage = stage
        self._needs = stage.method.needs
        self._plan = ray.put(plan)
        self._blocks = blocks
        self._context = context
        statistics = context.inputs.get("statistics")
        self._statistics = statistics if isinstance(statistics, StatisticsRef) else None

    def block(self, block: int, *, label: str) -> StoredBlock:
        """Prune and store one block, and bring the activations past it."""
        workers, propagation = self._workers, self._stage.propagation
        last = block == self._blocks - 1
        workers.all("load", block, label=label)
        groups: tuple[tuple[str, ...], ...] = ray.get(workers.one(0, "linear_groups"))
        measured: list[LinearStatistics] | StatisticsRef | None = self._statistics
        if not self._needs or propagation == "dense":
            self._choose(groups, measured, runs=False, label=label)
        elif propagation == "linear":
            measured = self._one_by_one(groups, label=label)
            workers.all("finish", advance=not last, label=label)
        else:
            measured = self._earlier(block)
            if measured is None:
                measured = workers.statistics(advance=False, needs=self._needs, label=label)
            self._choose(groups, measured, label=label)
        stored = workers.one(0, "store", measured, label=label)
        if self._needs and propagation == "pruned" and not last:
            workers.all("advance", label=label)
        result: StoredBlock = ray.get(stored)
        return result

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
        runs: bool = True,
        label: str,
    ) -> None:
        """Share the linears of some groups (from number `first` on) out over the workers, and tell all of
        them what was decided; only the one that stores the block, if no block `runs`."""
        workers = self._workers
        gang = range(len(workers.actors))
        calls: list[tuple[Sequence[str], list[Any]]]
        if "hessian" in self._needs:  # put together once, where all linears that share it are solved
            calls = [
                (group, workers.grams(first + g, label=label) if runs else [])
                for g, group in enumerate(groups)
            ]
        else:  # a call for each linear: an actor gives memory back between calls
            calls = [([linear], []) for group in groups for linear in group]
        given = ray.put(measured), self._stage.method, self._plan
        ray.get(
            [
                workers.one(i % len(gang), "choose", linears, *given, *grams, label=label)
                for i, (linears, grams) in enumerate(calls)
            ]
        )
        decided = [linear for linears, _ in calls for linear in linears]
        chosen = [workers.one(i, "chosen", decided, label=label) for i in gang] if len(gang) > 1 else []
        told = gang if runs else gang[:1]
        ray.get([workers.one(i, "apply", *chosen[:i], *chosen[i + 1 :], label=label) for i in told])

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


def _expert_table(blocks: Sequence[StoredBlock]) -> ExpertTable | None:
    """None where tokens of experts were not counted."""
    found = [BlockExperts(block=one.block, tokens=one.expert_tokens) for one in blocks if one.expert_tokens]
    return ExpertTable(minimum_tokens=MINIMUM_TOKENS, blocks=tuple(found)) if found else None


def _keep(content: ContentStore, blocks: Sequence[StoredBlock], experts: ExpertTable | None) -> KeepRef:
    linears = [linear for block in blocks for linear in block.linears]
    return keep_ref(content, [block.keep for block in blocks], linears, experts=experts)
