"""Assembles stored weights into a checkpoint: shards, their index, and the small files of the replaced
checkpoint."""

import json
from collections.abc import Iterator, Mapping, Sequence

from pipeline.artifacts.artifact import FileRef
from pipeline.artifacts.refs import CheckpointRef
from pipeline.artifacts.tensor_index import TensorEntry, TensorIndex
from pipeline.canonical import Frozen
from pipeline.checkpoint.language_model import language_names, wrapper_of
from pipeline.checkpoint.layout import WEIGHTS_INDEX_JSON
from pipeline.checkpoint.reader import CheckpointReader
from pipeline.checkpoint.slices import whole_name
from pipeline.checkpoint.writer import copy_tensors
from pipeline.storage.content import ContentStore

WEIGHT_FILES = (".safetensors", WEIGHTS_INDEX_JSON, CheckpointRef.path_of(TensorIndex))


class StoredTensors(Frozen):
    """One safetensors file and the position of each tensor in it."""

    file: FileRef
    tensors: dict[str, TensorEntry]

    @classmethod
    def of(cls, put: tuple[FileRef, dict[str, TensorEntry]]) -> "StoredTensors":
        """Wraps the result of put_tensors or copy_tensors."""
        return cls(file=put[0], tensors=put[1])


def assemble(
    content: ContentStore,
    like: CheckpointRef,
    parts: Sequence[StoredTensors],
    *,
    replaced: Mapping[str, bytes] | None = None,
) -> CheckpointRef:
    """Returns a checkpoint whose shards are `parts`, in their order, with every file of `like` except its
    weights; `replaced`: small files that replace those of `like`, by path.

    `parts` hold a language model. If `like` is a multimodal checkpoint, its other tensors follow in a shard
    of their own, to the bit.
    """
    parts = [*parts, *_other_parts(content, like)]
    names = [f"model-{i + 1:05d}-of-{len(parts):05d}.safetensors" for i in range(len(parts))]
    shards = [FileRef(path=name, blob=part.file.blob) for name, part in zip(names, parts, strict=True)]
    tensors: dict[str, TensorEntry] = {
        tensor: entry.model_copy(update={"file": name})
        for name, part in zip(names, parts, strict=True)
        for tensor, entry in part.tensors.items()
    }
    index = {
        "metadata": {"total_size": sum(entry.length for entry in tensors.values())},
        "weight_map": {whole_name(tensor): tensors[tensor].file for tensor in sorted(tensors)},
    }
    written = [
        FileRef(path=WEIGHTS_INDEX_JSON, blob=content.put_bytes(json.dumps(index, indent=2).encode())),
        CheckpointRef.put(content, TensorIndex(tensors=tensors)),
    ]
    own = replaced or {}
    written += [FileRef(path=path, blob=content.put_bytes(data)) for path, data in own.items()]
    kept = [file for file in like.files if not file.path.endswith(WEIGHT_FILES) and file.path not in own]
    return CheckpointRef(files=tuple(sorted([*kept, *shards, *written], key=lambda file: file.path)))


def _other_parts(content: ContentStore, like: CheckpointRef) -> Iterator[StoredTensors]:
    """Yields the tensors of a multimodal checkpoint that do not belong to its language model. A shard that
    has these and no others is taken as it is."""
    reader = CheckpointReader(content, like)
    if wrapper_of(reader.whole_config) is None:
        return
    tensors = reader.index.tensors
    inside = {*language_names(reader.whole_config, tensors).values()}
    others = {name: entry for name, entry in tensors.items() if name not in inside}
    files = {entry.file for entry in others.values()}
    if len(files) == 1 and not any(tensors[name].file in files for name in inside):
        (file,) = (file for file in like.files if file.path in files)
        yield StoredTensors(file=file, tensors=others)
    elif others:
        yield StoredTensors.of(copy_tensors(content, "others.safetensors", reader, sorted(others)))
