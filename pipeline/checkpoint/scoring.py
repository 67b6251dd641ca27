"""Scores of channels, heads and experts, from a stored checkpoint and its statistics.

They follow from the labels of dimensions alone (pipeline/architecture/axes.py). Tensors are read one by one.

Shape legend: H hidden size, A query heads, F FFN channels, E experts, G FFN channels of an expert, N any
labelled dimension.
"""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.architecture.axes import BY_HEAD, Dimension
from pipeline.architecture.row import Architecture
from pipeline.architecture.rows import row_for
from pipeline.artifacts.refs import StatisticsRef
from pipeline.checkpoint.reader import CheckpointReader
from pipeline.checkpoint.skeleton import disk_names, skeleton
from pipeline.checkpoint.statistics import read_gains, read_similarity, read_statistics
from pipeline.storage.content import ContentStore
from pipeline.structure.base import Known
from pipeline.structure.expert_facts import ExpertFacts
from pipeline.structure.scores import BlockScores, ModelScores
from pipeline.structure.sizes import Sizes, prefixes, sizes_of

Scores = NDArray[np.float64]
Sums = dict[str, Scores]  # by field of BlockScores, and "hidden_H"


@dataclass
class StoredModel(Known):
    """A checkpoint, and the measurements of a dense sweep over it, if there was one."""

    content: ContentStore
    reader: CheckpointReader
    statistics: StatisticsRef | None = None

    @cached_property
    def row(self) -> Architecture:
        """The architecture of its model type."""
        return row_for(str(self.reader.config["model_type"]))

    @cached_property
    def sizes(self) -> Sizes:
        """The sizes that its config.json states."""
        return sizes_of(self.row, self.reader.config)

    def shapes(self) -> ModelScores:
        """See Known."""
        blocks = [self._empty(block) for block in range(self.sizes.num_hidden_layers)]
        return ModelScores(np.zeros(self.sizes.hidden_size), tuple(BlockScores(**sums) for sums in blocks))

    def magnitudes(self) -> ModelScores:
        """See Known. A head has its query rows and output columns, and its share of its key-value head."""
        hidden_H = np.zeros(self.sizes.hidden_size)
        for name, disk in self._outer.items():
            for field, squares in self._squares(name, disk):
                if field == "hidden_H":
                    hidden_H += squares
        blocks = []
        for block, names in enumerate(self._blocks):
            sums = self._empty(block)
            for name, disk in names.items():
                for field, squares in self._squares(name, disk):
                    if field == "hidden_H":
                        hidden_H += squares
                    elif field == "expert_ffn_EG":
                        sums[field][self._expert(name)] += squares
                        sums["experts_E"][self._expert(name)] += squares.sum()
                    else:
                        sums[field] += squares
            blocks.append(BlockScores(**sums).mapped(np.sqrt))
        return ModelScores(np.sqrt(hidden_H), tuple(blocks))

    def activations(self) -> ModelScores:
        """See Known."""
        assert self.statistics is not None, "a criterion that needs samples has them"
        hidden: list[Scores] = []
        blocks = []
        for block, names in enumerate(self._blocks):
            sums = self._empty(block)
            measured = read_statistics(self.content, self.statistics, block)
            for group, one in zip(self.row.groups_in(names), measured, strict=True):
                assert one.channel_score_C is not None, "the sweep was asked for scores"
                scores = one.channel_score_C.double().numpy()
                entering = self.row.entering(group[0])
                if entering == "expert_ffn":
                    sums["expert_ffn_EG"][self._expert(group[0])] = scores
                elif self.row.experts is not None and self.row.experts.owns(group[0]):
                    sums["experts_E"][self._expert(group[0])] = one.tokens
                elif entering == "hidden":
                    hidden.append(scores)
                elif entering in _FIELDS:
                    sums[_FIELDS[entering]] = scores
            blocks.append(BlockScores(**sums))
        return ModelScores(np.mean(hidden, axis=0), tuple(blocks))

    def influences(self) -> tuple[float, ...]:
        """See Known."""
        assert self.statistics is not None, "a criterion that needs samples has them"
        return tuple(
            1 - read_similarity(self.content, self.statistics, block)
            for block in range(self.sizes.num_hidden_layers)
        )

    def experts(self) -> tuple[ExpertFacts | None, ...]:
        """See Known."""
        return self._experts

    @cached_property
    def _experts(self) -> tuple[ExpertFacts | None, ...]:
        assert self.statistics is not None, "a criterion that needs samples has them"
        found: list[ExpertFacts | None] = []
        for block in range(self.sizes.num_hidden_layers):
            gains = read_gains(self.content, self.statistics, block)
            if gains is None:
                found.append(None)
                continue
            products = () if gains.products_2EE is None else map(_array, gains.products_2EE)
            found.append(ExpertFacts(*map(_array, gains.sums_3E), *products))
        return tuple(found)

    @cached_property
    def _names(self) -> dict[str, str]:
        return disk_names(skeleton(self.reader, torch.float32), self.reader)

    @cached_property
    def _outer(self) -> dict[str, str]:
        """Maps names to checkpoint names outside the blocks, with tied tensors once."""
        once = {disk: name for name, disk in self._names.items() if self.row.inside(name) is None}
        return {name: disk for disk, name in once.items()}

    @cached_property
    def _blocks(self) -> list[dict[str, str]]:
        """Maps, for each block, the name inside it to the name in the checkpoint."""
        found: dict[str, dict[str, str]] = defaultdict(dict)
        for name, disk in self._names.items():
            placed = self.row.inside(name)
            if placed is not None:
                prefix, inside = placed
                found[prefix][inside] = disk
        return [found[prefix] for prefix in prefixes(self.row, self.reader.config)]

    def _empty(self, block: int) -> Sums:
        """Returns zeros for every score that a block has."""
        sizes = self.sizes
        sums: Sums = {}
        labels = {label for name in self._blocks[block] for label in self.row.labels(name)}
        if labels & {*BY_HEAD, "qkv", "qkv_by_group"}:
            sums["heads_A"] = np.zeros(sizes.num_attention_heads)
        if labels & {"ffn", "gate_up"}:
            sums["ffn_F"] = np.zeros(sizes.intermediate_size or 0)
        if "shared_ffn" in labels:
            sums["shared_ffn_F"] = np.zeros(sizes.shared_expert_intermediate_size or 0)
        if "expert_ffn" in labels:
            experts = sizes.num_experts or 0
            sums["experts_E"] = np.zeros(experts)
            sums["expert_ffn_EG"] = np.zeros((experts, sizes.moe_intermediate_size or 0))
        return sums

    def _squares(self, name: str, disk: str) -> Iterator[tuple[str, Scores]]:
        """Yields the sums of squares along each scored dimension of a tensor, with the field that they add
        to."""
        tensor = self.reader.tensor(disk).double().square()
        stated = {"hidden": self.sizes.hidden_size, "ffn": self.sizes.intermediate_size}
        for axis, label in enumerate(self.row.labels(name)):
            if stated.get(label, tensor.shape[axis]) != tensor.shape[axis]:
                continue  # it varies (Fixed), so that no cut asks for scores
            if label in _FIELDS:
                others = [i for i in range(tensor.dim()) if i != axis]
                along_N = tensor.sum(dim=others) if others else tensor
                yield _FIELDS[label], self._by_unit(label, along_N)

    def _by_unit(self, label: Dimension, along_N: Tensor) -> Scores:
        """Turns values by stored index into values by channel or head."""
        sizes = self.sizes
        wide, groups = sizes.heads_per_group, sizes.num_key_value_heads
        if label == "gate_up":
            return _array(along_N.unflatten(0, (2, -1)).sum(dim=0))
        if label == "expert_pairs":
            return _array(along_N.unflatten(0, (-1, 2)).sum(dim=1))
        if _FIELDS[label] != "heads_A":
            return _array(along_N)
        if label in BY_HEAD:
            return _array(along_N.unflatten(0, (sizes.num_attention_heads, -1)).sum(dim=1))
        slots = _array(along_N.unflatten(0, (-1, sizes.head_dim)).sum(dim=1))
        if label == "key_value":
            return np.repeat(slots / wide, wide)
        if label == "qkv":
            heads, keys, values = np.split(slots, [groups * wide, groups * wide + groups])
            return heads + np.repeat((keys + values) / wide, wide)
        by_group = slots.reshape(groups, wide + 2)
        return (by_group[:, :wide] + by_group[:, wide:].sum(axis=1, keepdims=True) / wide).ravel()

    def _expert(self, name: str) -> int:
        assert self.row.experts is not None, "only mixtures have experts"
        return self.row.experts.number(name)


_FIELDS: dict[Dimension, str] = {
    **dict.fromkeys(BY_HEAD, "heads_A"),
    "hidden": "hidden_H",
    "key_value": "heads_A",
    "qkv": "heads_A",
    "qkv_by_group": "heads_A",
    "ffn": "ffn_F",
    "gate_up": "ffn_F",
    "shared_ffn": "shared_ffn_F",
    "expert_ffn": "expert_ffn_EG",
    "expert_pairs": "expert_ffn_EG",
    "experts": "experts_E",
}


def _array(tensor: Tensor) -> Scores:
    return np.asarray(tensor.numpy(), dtype=np.float64)
