"""Imports a pinned checkpoint into the content store, in one pass over its bytes.

Each file streams from its source into the store; on the way a safetensors file's header is read and every
tensor is hashed, so that nothing is fetched twice and memory holds one chunk.
"""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait

from pipeline.artifacts.artifact import FileRef
from pipeline.artifacts.refs import CheckpointRef
from pipeline.artifacts.tensor_index import TensorEntry, TensorIndex
from pipeline.checkpoint.config_json import loadable_bytes
from pipeline.checkpoint.layout import CONFIG_JSON, TOKENIZER_CONFIG_JSON, WEIGHTS_INDEX_JSON
from pipeline.checkpoint.scan import TensorScan
from pipeline.checkpoint.wrapped import check_tensor_names
from pipeline.errors import UnsupportedCheckpoint
from pipeline.sources.access import Source
from pipeline.sources.pins import Pin, PinnedFile
from pipeline.storage.content import BlobRef, ContentStore

TELL_SECONDS = 0.5


def import_checkpoint(pin: Pin, source: Source, content: ContentStore) -> Iterator[int | CheckpointRef]:
    """Yields the number of bytes fetched so far, about twice a second, and finally the checkpoint.

    Raises SourceChanged; UnsupportedCheckpoint for broken safetensors files, tensors that two shards hold,
    and an index that does not agree with the shards.
    """
    done = 0
    files: list[FileRef] = []
    tensors: dict[str, TensorEntry] = {}
    for file in pin.files:
        scan = TensorScan(file.path) if file.path.endswith(".safetensors") else None
        for step in _transferred(file, source, content, scan):
            if isinstance(step, BlobRef):
                files.append(FileRef(path=file.path, blob=step))
            else:
                yield done + step
        done += file.size
        if scan is not None:
            _add(tensors, scan.entries)
    check_tensor_names(tensors)
    files = sorted((_loadable(file, content) for file in files), key=lambda file: file.path)
    for ref in files:
        if ref.path == WEIGHTS_INDEX_JSON:
            _check_index(content.get_bytes(ref.blob), tensors)
    if not tensors:
        raise UnsupportedCheckpoint(f"{pin.source} holds no tensors", "spec.model.source")
    yield CheckpointRef(files=(*files, CheckpointRef.put(content, TensorIndex(tensors=tensors))))


def _transferred(
    file: PinnedFile, source: Source, content: ContentStore, scan: TensorScan | None
) -> Iterator[int | BlobRef]:
    """Yields the number of bytes fetched of one file, and finally its blob. A thread transfers, so that this
    one can report."""
    fetched, abandoned = 0, False

    def counted() -> Iterator[bytes]:
        nonlocal fetched
        for chunk in source.read(file):
            if abandoned:
                raise InterruptedError("the import of this file was abandoned")
            fetched += len(chunk)
            yield chunk

    with ThreadPoolExecutor(1, thread_name_prefix="import") as pool:
        stored = pool.submit(content.put_stream, counted() if scan is None else scan.through(counted()))
        try:
            while not wait([stored], timeout=TELL_SECONDS).done:
                yield fetched
        finally:
            abandoned = True
    yield fetched
    yield stored.result()


def _loadable(file: FileRef, content: ContentStore) -> FileRef:
    """Returns a config as transformers loads it, and any other file as it is."""
    if file.path not in (CONFIG_JSON, TOKENIZER_CONFIG_JSON):
        return file
    data = content.get_bytes(file.blob)
    made = loadable_bytes(file.path, data)
    return file if made == data else FileRef(path=file.path, blob=content.put_bytes(made))


def _add(tensors: dict[str, TensorEntry], found: dict[str, TensorEntry]) -> None:
    for name, entry in found.items():
        if name in tensors:
            raise UnsupportedCheckpoint(
                f"tensor {name} lies in both {tensors[name].file} and {entry.file}; keep one of them",
                "spec.model.source",
            )
        tensors[name] = entry


def _check_index(data: bytes, tensors: dict[str, TensorEntry]) -> None:
    """Checks that every tensor lies in the shard that the index names. (Some indices omit buffers.)"""
    try:
        weight_map = json.loads(data)["weight_map"]
        wrong = [name for name, shard in weight_map.items() if _shard(tensors, name) != shard]
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise UnsupportedCheckpoint(
            f"{WEIGHTS_INDEX_JSON} has no weight_map of tensor names to file names", "spec.model.source"
        ) from error
    if wrong:
        first = wrong[0]
        raise UnsupportedCheckpoint(
            f"{WEIGHTS_INDEX_JSON} does not agree with the shards for {len(wrong)} tensors: {first} should "
            f"be in {weight_map[first]}, and is in {_shard(tensors, first) or 'none'}; "
            f"save the checkpoint again",
            "spec.model.source",
        )


def _shard(tensors: dict[str, TensorEntry], name: str) -> str | None:
    return tensors[name].file if name in tensors else None
