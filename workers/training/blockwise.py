"""Reconstruction as a training: finished blocks are stored, and a later start continues after them."""

import time
from collections.abc import Sequence
from typing import TypeVar

import torch

from pipeline.artifacts.curve import BlockFit, Curve
from pipeline.artifacts.refs import ArtifactRef, CheckpointRef, CurveRef
from pipeline.canonical import Frozen
from pipeline.checkpoint.assemble import StoredTensors, assemble
from pipeline.checkpoint.reader import CheckpointReader
from pipeline.checkpoint.stream import BlockStream
from pipeline.checkpoint.writer import copy_tensors, put_tensors
from pipeline.dag.stages.training import Recover
from pipeline.job.ledger import progress_key
from pipeline.structure.sizes import sizes_of
from pipeline.tensor.dtypes import TORCH_DTYPES
from workers.context import Note, Progress
from workers.memory import peak_memory_bytes, reset_peak_memory
from workers.training import ranks
from workers.training.certified import certified
from workers.training.data import TrainingData
from workers.training.reconstruction import reconstruct
from workers.training.stored import Stored
from workers.training.work import TrainingResult, TrainingRuntime, Work


class FittedBlock(Frozen):
    """The record of a finished block, as it is stored."""

    fit: BlockFit
    weights: StoredTensors


Block = TypeVar("Block", bound=FittedBlock)


def train_blocks(work: Work, runtime: TrainingRuntime) -> TrainingResult:
    """Fit every block that is not stored yet. Raises ZerosLost if a pruned weight is stored as not zero."""
    reset_peak_memory()
    started_at = time.monotonic()
    content = work.settings.content()
    assert isinstance(work.stage, Recover)
    recovery = work.stage.recovery
    data = TrainingData(content, work.tokens, seed=recovery.text.seed)
    done = ranks.from_first(lambda: stored_blocks(work, FittedBlock))
    if done and ranks.rank() == 0:
        runtime.tell(Note(f"{len(done)} blocks are fitted already"))
    assert work.teacher is not None
    fitted = reconstruct(
        recovery,
        content,
        dense=work.teacher,
        pruned=work.checkpoint,
        keep=work.keep,
        sequence=lambda index: data.sequences([index])[0],
        micro_batch_size=work.resources.micro_batch,
        dtype=TORCH_DTYPES[recovery.precision],
        device=work.device,
        done=[block.weights for block in done],
    )
    reader = CheckpointReader(content, work.checkpoint)
    blocks = sizes_of(work.row, reader.config).num_hidden_layers
    for fit, tensors in fitted:
        weights = StoredTensors.of(put_tensors(content, "part.safetensors", tensors))
        done = [*done, FittedBlock(fit=fit, weights=weights)]
        if ranks.rank() == 0:
            content.put_model(progress_key(work.key, f"fitted-{fit.block:05d}"), done[-1])
            note = f"distance {fit.before:.4g} → {fit.after:.4g}"
            runtime.tell(Progress(float(len(done)), float(blocks), note))
    peak = int(ranks.largest([float(peak_memory_bytes())], work.device)[0])
    artifacts = _artifacts(work, done)
    return TrainingResult(
        artifacts=artifacts,
        tokens=recovery.sequences * data.index.sequence_length,
        seconds=time.monotonic() - started_at,
        peak_memory_bytes=peak,
    )


def _artifacts(work: Work, done: list[FittedBlock]) -> dict[str, ArtifactRef]:
    """The artifacts of all fitted blocks. All workers call it."""
    content, recipe = work.settings.content(), work.stage.recipe
    checkpoint = ranks.from_first(lambda: fitted_checkpoint(work, [block.weights for block in done]))
    steps = recipe.total_steps
    curve = Curve(blocks=tuple(block.fit for block in done), total_steps=steps, result_step=steps)
    artifacts: dict[str, ArtifactRef] = {
        "checkpoint": checkpoint,
        "curve": ranks.from_first(lambda: CurveRef.made(content, curve)),
    }
    stored = Stored(step=steps, checkpoint=checkpoint, keep=work.keep)
    return artifacts | certified(work, stored, checks=())


def fitted_checkpoint(work: Work, blocks: Sequence[StoredTensors]) -> CheckpointRef:
    """Store the work's checkpoint with these blocks in the place of its own."""
    content = work.settings.content()
    reader = CheckpointReader(content, work.checkpoint)
    names = BlockStream(reader, dtype=torch.float32, device=torch.device("cpu")).outer_tensors()
    outer = StoredTensors.of(copy_tensors(content, "part.safetensors", reader, names))
    return assemble(content, work.checkpoint, [outer, *blocks])


def stored_blocks(work: Work, cls: type[Block]) -> list[Block]:
    """The blocks that an earlier start has stored: from block 0 up to the first that lacks its record or its
    blob."""
    content = work.settings.content()
    stored: list[Block] = []
    while block := content.find_model(progress_key(work.key, f"fitted-{len(stored):05d}"), cls):
        if not content.has(block.weights.file.blob):
            break
        stored.append(block)
    return stored
