"""Tiny checkpoints with masks in a store, and their files of masks."""

import json
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from pipeline.architecture.rows import row_for
from pipeline.artifacts.refs import CheckpointRef, KeepRef
from pipeline.checkpoint.keeps import held_tensors, put_keep, turned
from pipeline.checkpoint.reader import CheckpointReader
from pipeline.masks.file import TABLE, put_masks
from pipeline.spec.patterns import NM, Pattern, Unstructured
from pipeline.storage import ContentStore
from tests.checkpoints import imported
from tests.models import tiny_checkpoint

HEAD = 8


@dataclass
class Made:
    """A checkpoint with masks. `keeps`: bool [O, I] by the weights' names; `file`: the file of masks."""

    model: Path
    content: ContentStore
    checkpoint: CheckpointRef
    keep: KeepRef
    keeps: dict[str, torch.Tensor]
    patterns: list[Pattern]
    file: Path


def made_masks(
    kind: str,
    place: Path,
    *,
    nm: tuple[int, int] | None = (2, 4),
    seed: int = 0,
    told: bool = True,
    **checkpoint: str,
) -> Made:
    """Random masks of a random model, N:M or of two densities. `told`: True if the file names the weights
    that the masks were chosen for."""
    model = tiny_checkpoint(kind, place / "model", **checkpoint)
    content, ref = imported(model, place / "store")
    reader = CheckpointReader(content, ref)
    row = row_for(str(reader.config["model_type"]))
    generator = torch.Generator().manual_seed(seed)
    keeps, blocks = {}, 0
    for held in held_tensors(row, reader.index.tensors):
        shape = turned(torch.empty(reader.index.tensors[held.name].shape), row, held.linear).shape
        scores = torch.rand(shape, generator=generator)
        if nm is None:
            keeps[held.name] = scores < 0.4 + 0.2 * (held.block % 2)
        else:
            order = scores.unflatten(1, (-1, nm[1])).argsort(-1).argsort(-1)
            keeps[held.name] = (order < nm[0]).flatten(1)
        blocks = held.block + 1
    oriented = {name: turned(keep, row) for name, keep in keeps.items()}
    keep = put_keep(content, ref, oriented)
    pattern = Unstructured(sparsity=0.5) if nm is None else NM(keep=nm[0], group=nm[1])
    patterns: list[Pattern] = [pattern] * blocks
    stored = put_masks(content, ref, keep, patterns=patterns, dense=ref if told else None)
    file = place / "masks.safetensors"
    file.write_bytes(content.get_bytes(stored.blob))
    return Made(model, content, ref, keep, keeps, patterns, file)


def rewritten(path: Path, change: Callable[[dict[str, Any], dict[str, Any], bytearray], None]) -> Path:
    """A file of masks whose header, table and bytes were changed."""
    data = path.read_bytes()
    size = struct.unpack("<Q", data[:HEAD])[0]
    header = json.loads(data[HEAD : HEAD + size])
    body = bytearray(data[HEAD + size :])
    table = json.loads(header["__metadata__"][TABLE])
    change(header, table, body)
    if TABLE in header["__metadata__"]:
        header["__metadata__"][TABLE] = json.dumps(table)
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + body)
    return path
