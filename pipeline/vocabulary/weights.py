"""A stored checkpoint with fewer tokens: rows of embedding and head, files, config."""

from collections.abc import Iterator

from pipeline.architecture.rows import row_for
from pipeline.artifacts.artifact import FileRef
from pipeline.artifacts.refs import CheckpointRef
from pipeline.artifacts.vocabulary import KeptTokens
from pipeline.checkpoint.layout import is_description
from pipeline.checkpoint.reader import CheckpointReader
from pipeline.checkpoint.slicing import full_config, slice_checkpoint
from pipeline.storage.content import ContentStore
from pipeline.structure.cut import Cut
from pipeline.structure.sizes import sizes_of
from pipeline.vocabulary.cutting import Vocabulary, cut_files, renumbered_fields


def small_files(content: ContentStore, ref: CheckpointRef) -> dict[str, bytes]:
    """Everything of a checkpoint but its weights, by name."""
    return {file.path: content.get_bytes(file.blob) for file in ref.files if is_description(file.path)}


def cut_checkpoint(
    content: ContentStore, ref: CheckpointRef, vocabulary: Vocabulary, tokens: KeptTokens
) -> Iterator[int | CheckpointRef]:
    """Yields how many blocks are done, and at last the smaller checkpoint. What has a dimension over the
    vocabulary follows from its labels (pipeline/architecture/axes.py): embedding, head, its bias, tied or
    not."""
    reader = CheckpointReader(content, ref)
    config = full_config(reader.config)
    sizes = sizes_of(row_for(str(config["model_type"])), config)
    cut = Cut.whole(sizes).model_copy(update={"vocabulary": tokens.kept})
    like = with_files(content, ref, cut_files(vocabulary, tokens))
    yield from slice_checkpoint(
        content, reader, cut, like=like, changes=renumbered_fields(vocabulary, tokens)
    )


def with_files(content: ContentStore, ref: CheckpointRef, files: dict[str, bytes]) -> CheckpointRef:
    """The checkpoint with other small files in the place of those of the same names."""
    kept = [file for file in ref.files if file.path not in files]
    own = [FileRef(path=path, blob=content.put_bytes(data)) for path, data in files.items()]
    return CheckpointRef(files=tuple(sorted([*kept, *own], key=lambda file: file.path)))
