"""Cuts a stored checkpoint to fewer tokens: rows of embedding and head, files, config."""

from collections.abc import Iterator

from pipeline.architecture.rows import row_for
from pipeline.artifacts.artifact import FileRef
from pipeline.artifacts.refs import CheckpointRef
from pipeline.artifacts.vocabulary import KeptTokens
from pipeline.checkpoint.layout import depends_on_ids, is_description
from pipeline.checkpoint.reader import CheckpointReader
from pipeline.checkpoint.slicing import full_config, slice_checkpoint
from pipeline.storage.content import ContentStore
from pipeline.structure.cut import Cut
from pipeline.structure.sizes import sizes_of
from pipeline.vocabulary.cutting import Vocabulary, cut_files, renumbered_fields


def small_files(content: ContentStore, ref: CheckpointRef) -> dict[str, bytes]:
    """Returns all files of a checkpoint except its weights, by name."""
    return {file.path: content.get_bytes(file.blob) for file in ref.files if is_description(file.path)}


def cut_checkpoint(
    content: ContentStore, ref: CheckpointRef, vocabulary: Vocabulary, tokens: KeptTokens
) -> Iterator[int | CheckpointRef]:
    """Yields the number of finished blocks, and finally the smaller checkpoint. The labels of dimensions
    (pipeline/architecture/axes.py) tell which parameters have a vocabulary dimension: embedding, head, its
    bias, tied or not."""
    reader = CheckpointReader(content, ref)
    config = full_config(reader.config)
    sizes = sizes_of(row_for(str(config["model_type"])), config)
    cut = Cut.whole(sizes).model_copy(update={"vocabulary": tokens.kept})
    like = with_files(content, ref, cut_files(vocabulary, tokens))
    yield from slice_checkpoint(
        content, reader, cut, like=like, changes=renumbered_fields(vocabulary, tokens)
    )


def left_behind(ref: CheckpointRef) -> tuple[str, ...]:
    """Returns a sentence about the files that a checkpoint with a cut vocabulary no longer has."""
    names = [file.path for file in ref.files if depends_on_ids(file.path)]
    if not names:
        return ()
    return (
        f"stays behind, because tokens go by their old ids there and nothing here renumbers them: "
        f"{', '.join(names)}",
    )


def with_files(content: ContentStore, ref: CheckpointRef, files: dict[str, bytes]) -> CheckpointRef:
    """Returns the checkpoint with other small files in place of those of the same names, and without those
    that name tokens by their old ids."""
    kept = [file for file in ref.files if file.path not in files and not depends_on_ids(file.path)]
    own = [FileRef(path=path, blob=content.put_bytes(data)) for path, data in files.items()]
    return CheckpointRef(files=tuple(sorted([*kept, *own], key=lambda file: file.path)))
