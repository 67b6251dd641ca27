"""Reads `torch_dist`, Megatron's current layout: pieces of tensors as torch.distributed.checkpoint stores
them.

Parameters of blocks are stored stacked, [blocks, ...], or one by one; of a stack only one block's pieces are
read.
"""

import re
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor
from torch.distributed.checkpoint.metadata import MetadataIndex, TensorStorageMetadata

from pipeline.checkpoint.megatron.mapping import BLOCKS, EMBEDDING
from pipeline.checkpoint.megatron.pickles import load_metadata, load_settings, load_tensor
from pipeline.checkpoint.megatron.weights import Facts
from pipeline.errors import IncompleteCheckpoint, UnsupportedCheckpoint

METADATA = ".metadata"
SETTINGS = "common.pt"
APART = ("_w", "_v")  # gate and up, which `singleton_local_shards` stores under separate names


class TorchDist:
    """A checkpoint in this layout, by the names of mapping.py with the number of the block."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._metadata = load_metadata(directory / METADATA)
        self._stored = {
            name: entry
            for name, entry in self._metadata.state_dict_metadata.items()
            if isinstance(entry, TensorStorageMetadata)
        }
        ends = [name for name in self._stored if name.endswith(EMBEDDING.name)]  # optimizers store copies
        self._prefix = min(ends, key=len).removesuffix(EMBEDDING.name) if ends else ""

    @cached_property
    def settings(self) -> dict[str, object]:
        """The settings beside the tensors: `args` and the iteration."""
        path = self._directory / SETTINGS
        return load_settings(path) if path.exists() else {}

    @cached_property
    def facts(self) -> Mapping[str, Facts]:
        """The type and shape of each whole parameter."""
        found: dict[str, Facts] = {}
        for stored, entry in self._stored.items():
            name = stored.removeprefix(self._prefix)
            if not stored.startswith(self._prefix) or not name.startswith(
                (BLOCKS, "decoder.", "embedding.", "output")
            ):
                continue
            dtype, shape = entry.properties.dtype, tuple(entry.size)
            if name.startswith(BLOCKS) and not re.match(r"\d+\.", name.removeprefix(BLOCKS)):
                inner = name.removeprefix(BLOCKS)
                found |= {f"{BLOCKS}{block}.{inner}": Facts(dtype, shape[1:]) for block in range(shape[0])}
            else:
                found[name] = Facts(dtype, shape)
        return _together(found)

    def tensor(self, name: str) -> Tensor:
        """Returns one whole parameter. Raises IncompleteCheckpoint where pieces of it are missing."""
        facts = self.facts[name]
        if f"{self._prefix}{name}" in self._stored:
            return self._read(f"{self._prefix}{name}", facts, block=None)
        if f"{self._prefix}{name}{APART[0]}" in self._stored:
            half = Facts(facts.dtype, (facts.shape[0] // 2, *facts.shape[1:]))
            return torch.cat([self._read(f"{self._prefix}{name}{end}", half, block=None) for end in APART])
        block, _, inner = name.removeprefix(BLOCKS).partition(".")
        return self._read(f"{self._prefix}{BLOCKS}{inner}", facts, block=int(block))

    def _read(self, stored: str, facts: Facts, *, block: int | None) -> Tensor:
        """Assembles a tensor, or one block of a stack, from its pieces."""
        whole = torch.empty(facts.shape, dtype=facts.dtype)
        filled = 0
        for chunk in self._stored[stored].chunks:
            offsets, sizes = tuple(chunk.offsets), tuple(chunk.sizes)
            if block is not None and not offsets[0] <= block < offsets[0] + sizes[0]:
                continue
            piece = self._piece(stored, offsets)
            if tuple(piece.shape) != sizes:
                raise UnsupportedCheckpoint(
                    f"{stored} has a piece of shape {tuple(piece.shape)}, expected {sizes}"
                )
            if block is not None:
                piece, offsets, sizes = piece[block - offsets[0]], offsets[1:], sizes[1:]
            whole[tuple(slice(at, at + size) for at, size in zip(offsets, sizes, strict=True))] = piece
            filled += piece.numel()
        if filled != whole.numel():
            raise IncompleteCheckpoint(
                f"{stored} has {filled} of {whole.numel()} values; save the checkpoint again"
            )
        return whole

    def _piece(self, stored: str, offsets: tuple[int, ...]) -> Tensor:
        place = (self._metadata.storage_data or {}).get(MetadataIndex(stored, offsets))
        if place is None:
            raise IncompleteCheckpoint(f"{METADATA} does not say where {stored} at {offsets} lies")
        if getattr(place, "transform_descriptors", None):
            raise UnsupportedCheckpoint(
                f"{stored} is stored with {place.transform_descriptors}; save it without such transforms"
            )
        path = self._directory / Path(place.relative_path).name
        if not path.exists():
            raise IncompleteCheckpoint(f"{path} does not exist; {METADATA} says that {stored} lies there")
        with path.open("rb") as file:
            return load_tensor(file, start=place.offset, length=place.length)


def _together(found: Mapping[str, Facts]) -> dict[str, Facts]:
    """Puts gate and up under one name."""
    whole: dict[str, Facts] = {}
    for name, facts in found.items():
        if name.endswith(APART[0]) and f"{name.removesuffix(APART[0])}{APART[1]}" in found:
            whole[name.removesuffix(APART[0])] = Facts(facts.dtype, (2 * facts.shape[0], *facts.shape[1:]))
        elif not (name.endswith(APART[1]) and f"{name.removesuffix(APART[1])}{APART[0]}" in found):
            whole[name] = facts
    return whole
