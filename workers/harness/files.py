"""Checkpoints as ordinary Hugging Face directories, for libraries that load them whole."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from pipeline.artifacts.refs import CheckpointRef
from pipeline.storage.content import BlobRef, ContentStore


def materialise_checkpoint(ref: CheckpointRef, content: ContentStore, directory: Path) -> None:
    """Write a checkpoint as an ordinary Hugging Face directory, and verify every file. From a remote storage,
    several files are fetched at once."""
    with ThreadPoolExecutor(content.connections, thread_name_prefix="files") as pool:
        writing = [
            pool.submit(write_blob, content, file.blob, directory / file.path) for file in ref.model_files
        ]
        for one in writing:
            one.result()


def write_blob(content: ContentStore, blob: BlobRef, path: Path) -> None:
    """Write a blob to a file. Raises CorruptObject at its end if the content does not match its digest."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.writelines(content.stream(blob))
