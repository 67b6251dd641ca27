"""Stores a copied checkpoint again with plain weights in place of codes and scales, a matrix at a time."""

from collections.abc import Iterator, Mapping
from functools import partial

from torch import Tensor

from pipeline.architecture.row import Architecture
from pipeline.artifacts.refs import CheckpointRef
from pipeline.artifacts.tensor_index import TensorEntry, TensorIndex
from pipeline.checkpoint.assemble import StoredTensors, assemble
from pipeline.checkpoint.quantized import DTYPE, codes_of
from pipeline.checkpoint.reader import read_tensor
from pipeline.checkpoint.slices import place, slice_name, whole_name
from pipeline.checkpoint.writer import LaterTensor, put_made
from pipeline.errors import UnsupportedCheckpoint
from pipeline.storage.content import ContentStore
from pipeline.tensor.dequantize import from_fp8, from_mxfp4
from pipeline.tensor.masks import all_finite


def dequantized(
    content: ContentStore, ref: CheckpointRef, tensors: Mapping[str, TensorEntry], row: Architecture
) -> tuple[CheckpointRef, dict[str, TensorEntry]]:
    """Returns the checkpoint in which every tensor is plain, without an index, and its tensors. It has a
    shard for each shard that was copied. `tensors`: as they were copied, those of MXFP4 by slices. Raises
    UnsupportedCheckpoint for weights that are not finite."""

    def read(name: str) -> Tensor:
        entry = tensors[name]
        return read_tensor(content, ref.file(entry.file), entry, name=name)

    shards: dict[str, dict[str, LaterTensor]] = {}
    used: set[str] = set()
    for name, codes, scales in _pairs(tensors, row):
        turned = bool(place(codes)[1])  # MXFP4, by slices
        shape = tensors[codes].shape
        shape = (32 * shape[1], shape[0]) if turned else shape
        used |= {codes, scales}

        def make(name: str = name, codes: str = codes, scales: str = scales, turned: bool = turned) -> Tensor:
            weight_OI = (from_mxfp4 if turned else from_fp8)(read(codes), read(scales))
            if not all_finite(weight_OI):
                raise UnsupportedCheckpoint(
                    f"{codes} and {scales} make weights of {name} that are NaN or infinite: they are broken; "
                    f"download the checkpoint again",
                    "spec.model.source",
                )
            return weight_OI.t().contiguous() if turned else weight_OI

        shards.setdefault(tensors[codes].file, {})[name] = LaterTensor(DTYPE, shape, make)
    for name, entry in tensors.items():
        if name not in used:
            plain = LaterTensor(entry.dtype, entry.shape, partial(read, name))
            shards.setdefault(entry.file, {})[name] = plain
    parts = [StoredTensors.of(put_made(content, file, shards[file])) for file in sorted(shards)]
    made = assemble(content, ref, parts)
    own = CheckpointRef.content
    files = tuple(file for file in made.files if file.path not in own)
    return CheckpointRef(files=files), made.load(content, TensorIndex).tensors


def _pairs(tensors: Mapping[str, TensorEntry], row: Architecture) -> Iterator[tuple[str, str, str]]:
    """Yields the name of each matrix that is stored quantized, and those of its codes and scales."""
    for name, (codes, scales) in codes_of(row, {whole_name(one) for one in tensors}).items():
        if codes in tensors:
            yield name, codes, scales
            continue
        number = 0
        while (part := slice_name(codes, (number,))) in tensors:
            yield slice_name(name, (number,)), part, slice_name(scales, (number,))
            number += 1
