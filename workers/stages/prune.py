"""Masks block by block; every finished block is stored, and a later attempt goes on after it."""

from collections.abc import Sequence
from typing import Any

import ray

from pipeline.artifacts import BlockExperts, ExpertTable, KeepRef
from pipeline.checkpoint.assemble import StoredTensors, assemble
from pipeline.checkpoint.keeps import keep_ref
from pipeline.ledger import progress_key
from pipeline.plan import SparsityPlan
from pipeline.stages import PruneBlocks
from pipeline.storage.content import ContentStore
from pipeline.tensor.routing import MINIMUM_TOKENS
from pipeline.tensor.sweep import StoredBlock
from workers.gang import Gang, GangKeeper
from workers.samples import load_samples
from workers.stages.base import Note, Progress, StageContext, Steps


def run(stage: PruneBlocks, context: StageContext, keeper: GangKeeper) -> Steps:
    """See ALGORITHMS of the method; with `propagation: pruned` each block runs twice, else once."""
    content = context.content
    plan = SparsityPlan.model_validate_json(content.get_bytes(context.inputs["plan"].file("plan.json")))
    samples = load_samples(context) if stage.method.needs else []
    done = _stored_blocks(content, context.key)
    with keeper.turn() as turn:
        workers, blocks = yield from turn.open(context, samples, dtype=stage.compute_dtype)
        outer = workers.one(0, "store_outer")
        if done:
            yield Note(f"{len(done)} of {blocks} blocks are stored already")
        for block in range(blocks):
            label = f"block {block + 1}/{blocks}"
            if block < len(done):
                if samples:
                    _replay(workers, done[block], dense=stage.propagation == "dense", label=label)
            else:
                stored = _prune_block(
                    workers, block, stage=stage, plan=plan, samples=bool(samples), label=label
                )
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


def _prune_block(
    workers: Gang, block: int, *, stage: PruneBlocks, plan: SparsityPlan, samples: bool, label: str
) -> StoredBlock:
    workers.all("load", block, label=label)
    statistics = None
    needs = stage.method.needs
    if samples:
        dense = stage.propagation == "dense"
        statistics = ray.put(workers.statistics(advance=dense, needs=needs, label=label))
    gang = range(len(workers.actors))
    groups = ray.get(workers.one(0, "linear_groups"))
    calls: list[tuple[Sequence[str], list[Any]]]
    if "hessian" in needs:  # a gram is put together once, where all linears that share it are solved
        calls = [(group, workers.grams(g, label=label)) for g, group in enumerate(groups)]
    else:  # a call for each linear: an actor gives memory back between calls
        calls = [([linear], []) for group in groups for linear in group]
    given = statistics, stage.method, plan.blocks[block]
    decided = [
        workers.one(i % len(gang), "choose", linears, *given, *grams, label=label)
        for i, (linears, grams) in enumerate(calls)
    ]
    ray.get(decided)
    chosen = [workers.one(i, "chosen", label=label) for i in gang] if len(gang) > 1 else []
    ray.get([workers.one(i, "apply", *chosen[:i], *chosen[i + 1 :], label=label) for i in gang])
    stored = workers.one(0, "store", statistics, label=label)
    if samples and stage.propagation == "pruned":
        workers.all("advance", label=label)
    result: StoredBlock = ray.get(stored)
    return result


def _replay(workers: Gang, stored: StoredBlock, *, dense: bool, label: str) -> None:
    """Bring the activations past a block that an earlier attempt has finished."""
    workers.all("load", stored.block, None if dense else stored, label=label)
    workers.all("advance", label=label)


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
