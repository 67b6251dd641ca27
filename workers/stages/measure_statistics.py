"""Dense sweep: statistics of every linear's input. A later attempt goes on after its last stored block."""

import itertools
from contextlib import ExitStack
from typing import Any

from pipeline.artifacts.artifact import FileRef
from pipeline.artifacts.refs import StatisticsRef
from pipeline.canonical import Frozen
from pipeline.dag.stages.pruning import MeasureStatistics
from pipeline.job.ledger import progress_key
from pipeline.storage.content import ContentStore
from pipeline.tensor.needs import Needs
from workers.gang.gang import Gang
from workers.gang.keeper import GangKeeper
from workers.gang.snapshots import Snapshots
from workers.samples import load_samples
from workers.stages.base import Note, Progress, StageContext, Steps


class StoredStatistics(Frozen):
    """A finished block."""

    files: tuple[FileRef, ...]


def run(stage: MeasureStatistics, context: StageContext, keeper: GangKeeper) -> Steps:
    """One forward a block gives its statistics and the inputs of the next; the last one ends before its
    output is made."""
    samples = load_samples(context)
    content = context.content
    done = _stored_blocks(content, context.key)
    with keeper.turn() as turn, ExitStack() as held:
        workers, blocks = yield from turn.open(context, samples, dtype=stage.compute_dtype)
        snapshots = held.enter_context(Snapshots(workers, context))
        reached = len(done)
        if done:
            reached = snapshots.restore(at_most=len(done)) if len(done) < blocks else blocks
            yield Note(f"{len(done)} of {blocks} blocks are stored already; going on from block {reached}")
        for block in range(blocks):
            label = f"block {block + 1}/{blocks}"
            if reached <= block < len(done):
                workers.tell("load", block, label=label)
                workers.all("advance", label=label)
            elif block >= len(done):
                last = block == blocks - 1 and "similarity" not in stage.needs
                workers.tell("load", block, label=label)
                stored = _measured(workers, frozenset(stage.needs), last=last, label=label)
                taken = snapshots.take(block + 1) if block < blocks - 1 else None
                done.append(StoredStatistics(files=tuple(workers.wait(stored))))
                content.put_model(progress_key(context.key, f"block-{block:05d}"), done[block])
                if taken is not None:
                    snapshots.keep(taken)
            yield Progress(block + 1, blocks)
        use = workers.use()
        snapshots.forget()
    files = tuple(file for block in done for file in block.files)
    yield use.made({"statistics": StatisticsRef(files=files)})


def _measured(workers: Gang, needs: Needs, *, last: bool, label: str) -> list[Any]:
    """References to the files of the loaded block."""
    statistics = workers.statistics(advance=not last, needs=needs, label=label)
    similarity = workers.similarity(label=label) if "similarity" in needs else None
    stored = [workers.one(0, "store_statistics", statistics, similarity, label=label)]
    if "hessian" in needs:
        turns = itertools.cycle(range(len(workers.actors)))
        for g, one in enumerate(statistics):
            grams = workers.grams(g, label=label)
            stored.append(workers.one(next(turns), "store_hessian", g, one.samples, *grams, label=label))
    return stored


def _stored_blocks(content: ContentStore, key: str) -> list[StoredStatistics]:
    """The finished blocks of earlier attempts, from block 0 without a gap, whose files are all there."""
    stored: list[StoredStatistics] = []
    while True:
        block = content.find_model(progress_key(key, f"block-{len(stored):05d}"), StoredStatistics)
        if block is None or not all(content.has(file.blob) for file in block.files):
            return stored
        stored.append(block)
