"""The names, types and shapes of a checkpoint's tensors, from the headers of its files.

A header lies at the beginning of a safetensors file and has some kilobytes, so that a checkpoint on a bucket
or hub is described after a short read of each shard, before any weight is fetched.
"""

import json
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from pipeline.architecture.row import Architecture
from pipeline.checkpoint.layout import WEIGHTS_INDEX_JSON
from pipeline.checkpoint.scan import (
    LENGTH_BYTES,
    DescribedTensor,
    broken,
    header_size,
    parse_header,
    read_header,
)
from pipeline.checkpoint.slices import parts_of_an_expert, slices_of
from pipeline.errors import UnsupportedCheckpoint
from pipeline.sources.access import Source
from pipeline.sources.pins import Pin, PinnedFile

FIRST_BYTES = 256 * 1024  # one request reads the whole header of most files
AT_ONCE = 8  # a model of several hundred gigabytes has a hundred shards


@dataclass(frozen=True)
class TensorFacts:
    """A stored tensor without its values. `dtype`: the name in safetensors, such as BF16; `file`: the file
    that holds it."""

    dtype: str
    shape: tuple[int, ...]
    file: str


def read_headers(pin: Pin, source: Source) -> dict[str, TensorFacts]:
    """Returns every tensor of a pinned checkpoint by its name.

    Raises SourceChanged; UnsupportedCheckpoint for a header that is broken or does not describe its file, a
    tensor that two shards hold, and an index that does not agree with the shards.
    """
    shards = [file for file in pin.files if file.path.endswith(".safetensors")]
    with ThreadPoolExecutor(AT_ONCE, thread_name_prefix="header") as pool:
        described = list(pool.map(lambda file: _described(file, source), shards))
    found: dict[str, TensorFacts] = {}
    for file, tensors in zip(shards, described, strict=True):
        for tensor in tensors:
            if tensor.name in found:
                raise UnsupportedCheckpoint(
                    f"tensor {tensor.name} lies in both {found[tensor.name].file} and {file.path}; keep one "
                    f"of them",
                    "spec.model.source",
                )
            found[tensor.name] = TensorFacts(tensor.dtype, tensor.shape, file.path)
    files = {name: facts.file for name, facts in found.items()}
    for file in pin.files:
        if file.path == WEIGHTS_INDEX_JSON:
            _check_index(b"".join(source.read(file)), files)
    if not found:
        raise UnsupportedCheckpoint(f"{pin.source} holds no tensors", "spec.model.source")
    return found


def read_local_headers(paths: Iterable[Path]) -> dict[str, TensorFacts]:
    """Returns every tensor of local safetensors files by its name. Raises UnsupportedCheckpoint."""
    return {
        tensor.name: TensorFacts(tensor.dtype, tensor.shape, path.name)
        for path in sorted(set(paths))
        for tensor in read_header(path)[1]
    }


def facts_apart(row: Architecture, tensors: Mapping[str, TensorFacts]) -> dict[str, TensorFacts]:
    """Returns the slices of tensors that hold all experts of a block in their places, and all others as they
    are."""
    found: dict[str, TensorFacts] = {}
    for name, facts in tensors.items():
        parts = parts_of_an_expert(row, name)
        if parts and len(facts.shape) > 1:
            slices = slices_of(name, facts.shape, parts)
            found |= {part: replace(facts, shape=shape) for part, shape in slices}
        else:
            found[name] = facts
    return found


def _described(file: PinnedFile, source: Source) -> list[DescribedTensor]:
    head = source.head(file, FIRST_BYTES)
    size = header_size(file.path, head[:LENGTH_BYTES])
    if len(head) < LENGTH_BYTES + size <= file.size:
        head = source.head(file, LENGTH_BYTES + size)
    header = head[LENGTH_BYTES : LENGTH_BYTES + size]
    if len(header) < size:
        raise broken(file.path, f"the header is cut after {len(head)} bytes")
    tensors = parse_header(file.path, header)
    left = file.size - LENGTH_BYTES - size
    for tensor in tensors:
        left -= tensor.length
        if left < 0:
            raise broken(file.path, f"it ends inside of tensor {tensor.name!r}")
    if left:
        raise broken(file.path, "there are bytes after its last tensor")
    return tensors


def _check_index(data: bytes, files: Mapping[str, str]) -> None:
    """Checks that every tensor lies in the shard that the index names. (Some indices omit buffers.) `files`:
    the shard of each tensor. Raises UnsupportedCheckpoint."""
    try:
        weight_map = json.loads(data)["weight_map"]
        wrong = [name for name, shard in weight_map.items() if files.get(name) != shard]
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise UnsupportedCheckpoint(
            f"{WEIGHTS_INDEX_JSON} has no weight_map of tensor names to file names", "spec.model.source"
        ) from error
    if wrong:
        first = wrong[0]
        raise UnsupportedCheckpoint(
            f"{WEIGHTS_INDEX_JSON} does not agree with the shards for {len(wrong)} tensors: {first} should "
            f"be in {weight_map[first]}, and is in {files.get(first) or 'none'}; save the checkpoint again",
            "spec.model.source",
        )
