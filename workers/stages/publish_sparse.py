"""The packed weights of a published model: its checkpoint again, below `sparse/`, as bits and values."""

import tempfile
from collections.abc import Generator
from pathlib import Path

from pipeline.artifacts.artifact import FileRef
from pipeline.checkpoint.layout import CONFIG_JSON
from pipeline.dag.stages.results import Publish
from pipeline.storage.content import BlobRef, ContentStore
from secateur.sparse.directories import FOLDER, PackedDirectory, check_smaller, guarded
from secateur.sparse.errors import SparseError
from secateur.sparse.files import PackedFile, Values, pack_file
from workers.context import Note, StageContext, Step


def sparse_files(stage: Publish, context: StageContext) -> Generator[Step, None, list[FileRef]]:
    """Pack the final checkpoint, file by file. Yields notes: where a type loses bits, and where nothing is
    written because it would not be smaller."""
    if stage.spec.publish is None:
        return []
    values, content = stage.spec.publish.sparse, context.content
    files, made = [], {}
    for file in context.checkpoint().model_files:
        path = f"{FOLDER}/{file.path}"
        if file.path.endswith(".safetensors"):
            made[file.path], blob = _packed(content, file.blob, values)
            files.append(FileRef(path=path, blob=blob))
        elif file.path == CONFIG_JSON:
            files.append(FileRef(path=path, blob=content.put_bytes(guarded(content.get_bytes(file.blob)))))
        else:
            files.append(FileRef(path=path, blob=file.blob))
    packed = PackedDirectory(made)
    try:
        check_smaller(packed, values)
    except SparseError as error:
        yield Note(f"publish.sparse: nothing is written below {FOLDER}/: {error}")
        return []
    if not packed.lossless:
        yield Note(
            f"publish.sparse: {values} does not hold every weight of this checkpoint to the bit; the "
            f"ordinary checkpoint beside {FOLDER}/ does, and so would float32"
        )
    return files


def _packed(content: ContentStore, blob: BlobRef, values: Values) -> tuple[PackedFile, BlobRef]:
    with tempfile.TemporaryDirectory(prefix="secateur-pack-") as name:
        ordinary, packed = Path(name) / "ordinary.safetensors", Path(name) / "packed.safetensors"
        with ordinary.open("wb") as written:
            written.writelines(content.stream(blob))
        made = pack_file(ordinary, packed, values=values)
        return made, content.put_file(packed)
