"""Cuts a checkpoint to smaller sizes, tensor by tensor.

The part of a tensor that stays follows from the labels of its dimensions alone
(pipeline/architecture/axes.py): no code here is specific to a model type. Memory holds the cut tensors of one
block, and one whole tensor.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from pydantic import JsonValue
from torch import Tensor

from pipeline.architecture.row import Architecture
from pipeline.architecture.rows import row_for
from pipeline.artifacts.refs import CheckpointRef
from pipeline.checkpoint.assemble import StoredTensors, assemble
from pipeline.checkpoint.class_config import class_config
from pipeline.checkpoint.config_json import written
from pipeline.checkpoint.language_model import check_inside, with_language
from pipeline.checkpoint.layout import CONFIG_JSON
from pipeline.checkpoint.merging import merged_experts
from pipeline.checkpoint.reader import CheckpointReader
from pipeline.checkpoint.skeleton import disk_names, skeleton
from pipeline.checkpoint.slices import place, slice_name
from pipeline.checkpoint.writer import put_tensors
from pipeline.errors import InvalidSpec
from pipeline.storage.content import ContentStore
from pipeline.structure.cut import BlockCut, Cut, sizes_after, staying
from pipeline.structure.sizes import Sizes, prefixes, resized, sizes_of


def slice_checkpoint(
    content: ContentStore,
    reader: CheckpointReader,
    cut: Cut,
    *,
    like: CheckpointRef,
    changes: Mapping[str, JsonValue] | None = None,
) -> Iterator[int | CheckpointRef]:
    """Yields the number of finished blocks, and finally the checkpoint: a shard for each block and one for
    the tensors outside of them. `changes`: further fields of config.json. Every other file is that of
    `like`."""
    config = full_config(reader.config)
    row = row_for(str(config["model_type"]))
    dense = Dense(reader, row, sizes_of(row, config))
    check_inside(reader.whole_config, dense.sizes, sizes_after(cut, dense.sizes))
    kept = [block.block for block in cut.blocks]
    smaller = {**resized(row, config, sizes_after(cut, dense.sizes), kept), **(changes or {})}
    _check_kinds(row, smaller)
    parts = [dense.outer(content, cut)]
    for made, (block, prefix) in enumerate(zip(cut.blocks, prefixes(row, smaller), strict=True), start=1):
        parts.append(dense.block(content, cut, block, becomes=prefix))
        yield made
    whole = with_language(reader.whole_config, reader.config, smaller)
    yield assemble(content, like, parts, replaced={CONFIG_JSON: written(whole)})


def full_config(config: Mapping[str, JsonValue]) -> dict[str, JsonValue]:
    """Returns config.json with the per-block fields that transformers' class derives."""
    config, read = dict(config), class_config(config)
    row = row_for(str(config["model_type"]))
    for field in (*row.by_block, *row.numbered):
        values = getattr(read, field, None)
        if isinstance(values, list | tuple):
            config[field] = list(values)
    return config


def _check_kinds(row: Architecture, smaller: Mapping[str, JsonValue]) -> None:
    """Raises InvalidSpec if transformers' class would make blocks of other kinds than those that stay."""
    if str(smaller["model_type"]) != row.model_type:
        return
    read = full_config(smaller)
    for field in row.by_block:
        if isinstance(smaller.get(field), list) and read[field] != smaller[field]:
            raise InvalidSpec(
                f"the blocks that stay have {field}={smaller[field]}, and transformers' class of "
                f"{row.model_type} makes {read[field]} of them; keep other blocks",
                "spec.structure.drop_blocks",
            )


@dataclass(frozen=True)
class Dense:
    """The dense checkpoint that is cut."""

    reader: CheckpointReader
    row: Architecture
    sizes: Sizes

    @cached_property
    def names(self) -> dict[str, str]:
        """Maps module names to names in the checkpoint."""
        return disk_names(skeleton(self.reader, torch.float32), self.reader)

    def outer(self, content: ContentStore, cut: Cut) -> StoredTensors:
        """Stores the tensors outside of the blocks, tied ones once."""
        named = {disk: name for name, disk in self.names.items() if self.row.inside(name) is None}
        kept = {disk: self.tensor(disk, name, cut, None) for disk, name in named.items()}
        return StoredTensors.of(put_tensors(content, "outer.safetensors", kept))

    @cached_property
    def prefixes(self) -> tuple[str, ...]:
        """What the names of each block's parameters begin with."""
        return prefixes(self.row, self.reader.config)

    def block(self, content: ContentStore, cut: Cut, block: BlockCut, *, becomes: str) -> StoredTensors:
        """Stores one block. `becomes`: what the names of its parameters begin with in the smaller model."""
        prefix = self.prefixes[block.block]
        merged = self._merged(block, prefix)
        kept = {}
        for name, disk in self.names.items():
            inner = name.removeprefix(prefix)
            if name.startswith(prefix):
                moved = self._moved(disk, inner, block, _number(prefix), _number(becomes))
                if moved is not None:
                    kept[moved] = self.tensor(disk, inner, cut, block, instead=merged.pop(inner, None))
        bias = None if self.row.decoder is None else self.row.decoder.bias
        if bias is not None and _number(becomes) == 0:  # what the stack shares moves to its new first block
            first = self.names[f"{becomes}{bias}"]
            kept[first] = self.tensor(first, bias, cut, block)
        return StoredTensors.of(put_tensors(content, "block.safetensors", kept))

    def tensor(
        self, disk: str, name: str, cut: Cut, block: BlockCut | None, *, instead: Tensor | None = None
    ) -> Tensor:
        """Returns the part of a tensor that stays. `name`: its name inside the block, or in the model.
        `instead`: a tensor of the same shape that takes its place."""
        shape = self.reader.index.tensors[disk].shape
        expert = self._expert(name)
        wanted = [
            staying(label, cut, block, self.sizes, length=length, expert=expert)
            for label, length in zip(self.row.labels(name), shape, strict=True)
        ]
        if instead is not None:
            tensor = instead if wanted[0] is None else instead[list(wanted[0])]
        elif not wanted or wanted[0] is None:
            tensor = self.reader.tensor(disk)
        else:
            tensor = self.reader.rows(disk, wanted[0])
        for dimension, places in enumerate(wanted[1:], start=1):
            if places is not None:
                tensor = tensor.index_select(dimension, torch.tensor(places, dtype=torch.long))
        return tensor

    def _merged(self, block: BlockCut, prefix: str) -> dict[str, Tensor]:
        """Returns the tensors of experts that others are merged into, whole, by name inside the block."""
        if not block.merged:
            return {}
        names = {
            name.removeprefix(prefix): disk for name, disk in self.names.items() if name.startswith(prefix)
        }
        return dict(
            merged_experts(self.row, names, lambda name: self.reader.tensor(names[name]), block.merged)
        )

    def _expert(self, name: str) -> int | None:
        experts = self.row.experts
        return experts.number(name) if experts is not None and experts.owns(name) else None

    def _moved(self, disk: str, inner: str, block: BlockCut, old: int, new: int) -> str | None:
        """Returns a tensor's name in the smaller checkpoint, or None if it is dropped. `old`, `new`: the
        numbers of its block within the stack."""
        leaf = self.row.blocks.rpartition(".")[2]
        moved = re.sub(rf"\b{leaf}\.{old}\.", f"{leaf}.{new}.", disk, count=1)
        expert = self._expert(inner)
        if expert is None or block.experts is None:
            return moved
        if expert not in block.experts:
            return None
        kept = block.experts.index(expert)
        whole, at = place(moved)
        if at:
            return slice_name(whole, (kept, *at[1:]))
        return re.sub(rf"\bexperts\.{expert}\.", f"experts.{kept}.", moved, count=1)


def _number(prefix: str) -> int:
    """Returns the number of a block within its stack, from what the names of its parameters begin with."""
    return int(prefix.rstrip(".").rpartition(".")[2])
