"""Stores the statistics of a dense sweep: the vectors of all groups of linears in one file per block, and
each Hessian in its own file, so that the solver of a group reads only that one.

Shape legend: I in_features.
"""

from collections.abc import Sequence

import torch
from safetensors.torch import load
from torch import Tensor

from pipeline.artifacts.artifact import FileRef
from pipeline.artifacts.refs import StatisticsRef
from pipeline.checkpoint.writer import put_tensors
from pipeline.storage.content import ContentStore
from pipeline.tensor.gains import ExpertGains
from pipeline.tensor.statistics import LinearStatistics

_SUMS, _PRODUCTS = "experts.sums", "experts.products"


def put_statistics(
    content: ContentStore,
    block: int,
    statistics: Sequence[LinearStatistics],
    similarity: float | None = None,
    *,
    gains: ExpertGains | None = None,
) -> FileRef:
    """Stores norms, means, variances, scores and counts of a block's groups, the similarity of the block's
    output to its input, and what its experts give. Hessians are stored separately."""
    tensors: dict[str, Tensor] = {}
    if similarity is not None:
        tensors["similarity"] = torch.tensor(similarity, dtype=torch.float64)
    if gains is not None:
        tensors[_SUMS] = gains.sums_3E
        if gains.products_2EE is not None:
            tensors[_PRODUCTS] = gains.products_2EE
    for group, one in enumerate(statistics):
        tensors[f"{group}.counts"] = torch.tensor([one.samples, one.tokens])
        tensors[f"{group}.input_norm"] = one.input_norm_I
        if one.input_mean_I is not None and one.input_variance_I is not None:
            tensors[f"{group}.input_mean"] = one.input_mean_I
            tensors[f"{group}.input_variance"] = one.input_variance_I
        if one.channel_score_C is not None:
            tensors[f"{group}.channel_score"] = one.channel_score_C
    return put_tensors(content, _vectors_path(block), tensors)[0]


def put_hessian(content: ContentStore, block: int, group: int, hessian_II: Tensor) -> FileRef:
    """Stores one Hessian, float32 [I, I]."""
    return put_tensors(content, _hessian_path(block, group), {"hessian": hessian_II})[0]


def read_statistics(content: ContentStore, ref: StatisticsRef, block: int) -> list[LinearStatistics]:
    """Returns the statistics of all groups of a block, without Hessians."""
    stored = load(content.get_bytes(ref.file(_vectors_path(block))))
    found: list[LinearStatistics] = []
    while (counts := stored.get(f"{len(found)}.counts")) is not None:
        group = len(found)
        samples, tokens = counts.tolist()
        mean_I, variance_I = stored.get(f"{group}.input_mean"), stored.get(f"{group}.input_variance")
        norm_I, score_C = stored[f"{group}.input_norm"], stored.get(f"{group}.channel_score")
        one = LinearStatistics(norm_I, samples, tokens, mean_I, variance_I, channel_score_C=score_C)
        found.append(one)
    return found


def read_similarity(content: ContentStore, ref: StatisticsRef, block: int) -> float:
    """Returns the mean cosine between the block's input and output, over all tokens of all samples."""
    return float(load(content.get_bytes(ref.file(_vectors_path(block))))["similarity"])


def read_gains(content: ContentStore, ref: StatisticsRef, block: int) -> ExpertGains | None:
    """Returns what the experts of a block give; None for a block without experts, or if it was not
    measured."""
    stored = load(content.get_bytes(ref.file(_vectors_path(block))))
    return ExpertGains(stored[_SUMS], stored.get(_PRODUCTS)) if _SUMS in stored else None


def read_hessian(content: ContentStore, ref: StatisticsRef, block: int, group: int) -> Tensor:
    """Returns one Hessian, float32 [I, I]."""
    return load(content.get_bytes(ref.file(_hessian_path(block, group))))["hessian"]


def _vectors_path(block: int) -> str:
    return f"block-{block:05d}.safetensors"


def _hessian_path(block: int, group: int) -> str:
    return f"block-{block:05d}-hessian-{group:03d}.safetensors"
