"""Checkpoints as ordinary Hugging Face directories, for libraries that load them whole."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from pipeline.artifacts.refs import CheckpointRef
from pipeline.checkpoint.assemble import WEIGHT_FILES
from pipeline.checkpoint.config_json import written
from pipeline.checkpoint.language_model import language_names, wrapper_of
from pipeline.checkpoint.layout import CONFIG_JSON, WEIGHTS
from pipeline.checkpoint.reader import CheckpointReader
from pipeline.checkpoint.writer import copied_file
from pipeline.storage.content import BlobRef, ContentStore


def materialise_checkpoint(ref: CheckpointRef, content: ContentStore, directory: Path) -> None:
    """Write a checkpoint as an ordinary Hugging Face directory, and verify every file. From a remote storage,
    several files are fetched at once. Of a multimodal checkpoint the language model is written alone, because
    texts are all that it is asked about."""
    reader, files = CheckpointReader(content, ref), ref.model_files
    if wrapper_of(reader.whole_config) is not None:
        _write_language_model(reader, directory)
        files = tuple(file for file in files if not file.path.endswith((*WEIGHT_FILES, CONFIG_JSON)))
    with ThreadPoolExecutor(content.connections, thread_name_prefix="files") as pool:
        writing = [pool.submit(write_blob, content, file.blob, directory / file.path) for file in files]
        for one in writing:
            one.result()


def write_blob(content: ContentStore, blob: BlobRef, path: Path) -> None:
    """Write a blob to a file. Raises CorruptObject at its end if the content does not match its digest."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.writelines(content.stream(blob))


def _write_language_model(reader: CheckpointReader, directory: Path) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    (directory / CONFIG_JSON).write_bytes(written(reader.config))
    names = language_names(reader.whole_config, reader.index.tensors)
    with (directory / WEIGHTS).open("wb") as file:
        file.writelines(copied_file(reader, names))
