"""Assembles stored weights into a checkpoint: shards, their index, and the small files of the replaced
checkpoint."""

import json
from collections.abc import Mapping, Sequence

from pipeline.artifacts.artifact import FileRef
from pipeline.artifacts.refs import CheckpointRef
from pipeline.artifacts.tensor_index import TensorEntry, TensorIndex
from pipeline.canonical import Frozen
from pipeline.checkpoint.layout import WEIGHTS_INDEX_JSON
from pipeline.checkpoint.slices import whole_name
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
    weights; `replaced`: small files that replace those of `like`, by path."""
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
