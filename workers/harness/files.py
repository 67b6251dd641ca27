"""Checkpoints as ordinary Hugging Face directories, for libraries that load them whole."""

from pathlib import Path

from pipeline.artifacts.refs import CheckpointRef
from pipeline.storage.content import BlobRef, ContentStore


def materialise_checkpoint(ref: CheckpointRef, content: ContentStore, directory: Path) -> None:
    """Write a checkpoint as an ordinary Hugging Face directory, and verify every file."""
    for file in ref.model_files:
        write_blob(content, file.blob, directory / file.path)


def write_blob(content: ContentStore, blob: BlobRef, path: Path) -> None:
    """Write a blob to a file. Raises CorruptObject at its end if the content does not match its digest."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.writelines(content.stream(blob))
