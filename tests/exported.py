"""Writes pruned blocks from the store as a checkpoint directory that any consumer loads."""

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
    """Write the checkpoint that the prune stage makes from pruned blocks, and return it."""
    ref = pruned_checkpoint(content, like, pruned)
    export(content, ref, directory)
    return ref


def export(content: ContentStore, ref: CheckpointRef, directory: Path) -> Path:
    """Write a stored checkpoint as a directory, which is replaced if it exists, and return the directory."""
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    for file in ref.model_files:
        (directory / file.path).write_bytes(content.get_bytes(file.blob))
    return directory
