"""A pruned model as a directory that any consumer loads, from what the sweep has stored."""

import shutil
from pathlib import Path

from pipeline.artifacts.refs import CheckpointRef
from pipeline.blocks.pruning import PrunedBlocks, pruned_checkpoint
from pipeline.storage import ContentStore


def exported(
    content: ContentStore,
    like: CheckpointRef,
    pruned: PrunedBlocks,
    directory: Path,
) -> CheckpointRef:
    """Write the checkpoint that the prune stage makes of pruned blocks, and return it."""
    ref = pruned_checkpoint(content, like, pruned)
    export(content, ref, directory)
    return ref


def export(content: ContentStore, ref: CheckpointRef, directory: Path) -> Path:
    """Write a stored checkpoint as a directory, in the place of what was there, and return it."""
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    for file in ref.model_files:
        (directory / file.path).write_bytes(content.get_bytes(file.blob))
    return directory
