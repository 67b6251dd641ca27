"""Masks block by block; every finished block is stored, and a later attempt goes on after it."""

import json
from collections.abc import Iterable, Sequence

import ray

from pipeline.artifacts import CheckpointRef, FileRef, KeepRef, SparsityTable
from pipeline.canonical import canonical_json
from pipeline.checkpoint.index import TENSORS_JSON, WEIGHTS_INDEX_JSON, TensorEntry, TensorIndex
from pipeline.ledger import progress_key
from pipeline.plan import SparsityPlan
from pipeline.stages import PruneBlocks
from pipeline.storage.content import ContentStore
from pipeline.tensor.sweep import StoredBlock, StoredTensors
from workers.gang import Gang, GangKeeper
from workers.samples import load_samples
from workers.stages.base import Note, Progress, StageContext, Steps

WEIGHT_FILES = (".safetensors", WEIGHTS_INDEX_JSON, TENSORS_JSON)


def run(stage: PruneBlocks, context: StageContext, keeper: GangKeeper) -> Steps:
    """See ALGORITHMS of the method; with `propagation: pruned` each block runs twice, else once."""
    content = context.content
    plan = SparsityPlan.model_validate_json(content.get_bytes(context.inputs["plan"].file("plan.json")))
    samples = load_samples(context) if stage.method.needs_statistics else []
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
                    workers, block, stage=stage, plan=plan, samples=len(samples), label=label
                )
                content.put_model(progress_key(context.key, f"block-{block:05d}"), stored)
                done.append(stored)
            yield Progress(block + 1, blocks)
        outer_tensors: StoredTensors = ray.get(outer)
        memory = workers.memory()
    checkpoint = _assemble(content, context.checkpoint(), outer_tensors, done)
    yield memory.made({"checkpoint": checkpoint, "keep": _keep(content, done)})


def _prune_block(
    workers: Gang, block: int, *, stage: PruneBlocks, plan: SparsityPlan, samples: int, label: str
) -> StoredBlock:
    workers.all("load", block, label=label)
    statistics = None
    if samples:
        dense = stage.propagation == "dense"
        statistics = ray.put(workers.statistics(samples=samples, advance=dense, label=label))
    linears = ray.get(workers.one(0, "linear_names"))
    pattern = plan.blocks[block]
    gang = range(len(workers.actors))
    decided = [  # a call for each linear: an actor gives memory back between calls
        workers.one(i % len(gang), "choose", [linear], statistics, stage.method, pattern, label=label)
        for i, linear in enumerate(linears)
    ]
    ray.get(decided)
    chosen = [workers.one(i, "chosen", label=label) for i in gang] if len(gang) > 1 else []
    ray.get([workers.one(i, "apply", *chosen[:i], *chosen[i + 1 :], label=label) for i in gang])
    stored = workers.one(0, "store", label=label)
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


def _assemble(
    content: ContentStore, dense: CheckpointRef, outer: StoredTensors, blocks: Sequence[StoredBlock]
) -> CheckpointRef:
    """The dense checkpoint's small files with new weights: a shard for what is outside, one per block."""
    parts = [outer, *(block.weights for block in blocks)]
    names = [f"model-{i + 1:05d}-of-{len(parts):05d}.safetensors" for i in range(len(parts))]
    shards = [FileRef(path=name, blob=part.file.blob) for name, part in zip(names, parts, strict=True)]
    tensors: dict[str, TensorEntry] = {
        tensor: entry.model_copy(update={"file": name})
        for name, part in zip(names, parts, strict=True)
        for tensor, entry in part.tensors.items()
    }
    index = {
        "metadata": {"total_size": sum(entry.length for entry in tensors.values())},
        "weight_map": {tensor: tensors[tensor].file for tensor in sorted(tensors)},
    }
    written = [
        FileRef(path=WEIGHTS_INDEX_JSON, blob=content.put_bytes(json.dumps(index, indent=2).encode())),
        FileRef(path=TENSORS_JSON, blob=content.put_bytes(canonical_json(TensorIndex(tensors=tensors)))),
    ]
    kept = [file for file in dense.files if not file.path.endswith(WEIGHT_FILES)]
    return CheckpointRef(files=_by_path([*kept, *shards, *written]))


def _keep(content: ContentStore, blocks: Sequence[StoredBlock]) -> KeepRef:
    table = SparsityTable(linears=tuple(linear for block in blocks for linear in block.linears))
    blob = content.put_bytes(canonical_json(table))
    return KeepRef(
        files=_by_path([*(block.keep for block in blocks), FileRef(path="sparsity.json", blob=blob)])
    )


def _by_path(files: Iterable[FileRef]) -> tuple[FileRef, ...]:
    return tuple(sorted(files, key=lambda file: file.path))
