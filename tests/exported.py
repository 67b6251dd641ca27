"""A pruned model as a directory that any consumer loads, from what the sweep has stored."""

import shutil
from collections.abc import Sequence
from pathlib import Path

from pipeline.artifacts.refs import CheckpointRef
from pipeline.blocks.worker import SweepWorker
from pipeline.checkpoint.assemble import assemble
from pipeline.checkpoint.stored_block import StoredBlock
from pipeline.storage import ContentStore


def exported(
    content: ContentStore,
    like: CheckpointRef,
    worker: SweepWorker,
    blocks: Sequence[StoredBlock],
    directory: Path,
) -> CheckpointRef:
    """Write the checkpoint that the prune stage makes of stored blocks, and return it."""
    ref = assemble(content, like, [worker.store_outer(), *(block.weights for block in blocks)])
    export(content, ref, directory)
    return ref


def export(content: ContentStore, ref: CheckpointRef, directory: Path) -> Path:
    """Write a stored checkpoint as a directory, in the place of what was there, and return it."""
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    for file in ref.model_files:
        (directory / file.path).write_bytes(content.get_bytes(file.blob))
    return directory
