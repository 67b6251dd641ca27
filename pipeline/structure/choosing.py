"""Turns scores and sizes into a Cut: the best of each kind, equally many in every tensor-parallel share."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from pipeline.structure.cut import BlockCut, Cut, Places
from pipeline.structure.scores import BlockScores, ModelScores
from pipeline.structure.sizes import Sizes
from pipeline.structure.target import check_shares

Scores = NDArray[np.float64]


def choose(
    scores: ModelScores,
    old: Sizes,
    new: Sizes,
    blocks: Sequence[int],
    *,
    tensor_parallel: int = 1,
    expert_groups: int = 1,
) -> Cut:
    """Returns the cut that keeps `blocks` of the dense model, and in each the channels, heads and experts
    with the best scores. Among equal scores the lowest index stays. Of each of `expert_groups` contiguous
    groups of experts equally many stay. Raises InvalidSpec where a size, dense or
    cut, does not divide into `tensor_parallel` contiguous shares."""
    check_shares(old, new, tensor_parallel)
    hidden = None
    if new.hidden_size != old.hidden_size:
        hidden = best(scores.hidden_H, new.hidden_size, shares=tensor_parallel)
    return Cut(
        hidden=hidden,
        blocks=tuple(_block(i, scores.blocks[i], old, new, tensor_parallel, expert_groups) for i in blocks),
    )


def best(scores: Scores, count: int, *, shares: int = 1) -> tuple[int, ...]:
    """Returns the indices of the `count` largest, ascending; with `shares`, equally many from each contiguous
    part."""
    parts = scores.reshape(shares, -1)
    order = np.argsort(-parts, axis=1, kind="stable")[:, : count // shares]
    places = order + np.arange(shares)[:, None] * parts.shape[1]
    return tuple(sorted(places.ravel().tolist()))


def _block(
    number: int, scores: BlockScores, old: Sizes, new: Sizes, shares: int, expert_groups: int
) -> BlockCut:
    heads, groups = _heads(scores.heads_A, old, new, shares)
    experts = _experts(scores, old, new, expert_groups)
    return BlockCut(
        block=number,
        heads=heads,
        key_value_heads=groups,
        ffn=_some(scores.ffn_F, old.intermediate_size, new.intermediate_size, shares),
        shared_ffn=_some(
            scores.shared_ffn_F,
            old.shared_expert_intermediate_size,
            new.shared_expert_intermediate_size,
            shares,
        ),
        experts=experts,
        expert_ffn=_expert_channels(scores, experts, new, shares),
    )


def _some(scores: Scores | None, size: int | None, count: int | None, shares: int) -> Places:
    if count is None or count == size:
        return None
    return () if scores is None else best(scores, count, shares=shares)  # (): blocks of other kinds have some


def _heads(scores_A: Scores | None, old: Sizes, new: Sizes, shares: int) -> tuple[Places, Places]:
    """Returns the query heads and key-value heads that stay: the best groups, and the best heads of each."""
    if new.num_attention_heads == old.num_attention_heads:
        return None, None
    if scores_A is None:  # a block without attention
        return (), None if new.num_key_value_heads == old.num_key_value_heads else ()
    by_group = scores_A.reshape(old.num_key_value_heads, old.heads_per_group)
    wide = new.heads_per_group
    largest = -np.sort(-by_group, axis=1)[:, :wide]  # the heads of each group that would stay
    groups = best(largest.sum(axis=1), new.num_key_value_heads, shares=shares)
    heads = [group * old.heads_per_group + head for group in groups for head in best(by_group[group], wide)]
    return tuple(heads), None if len(groups) == old.num_key_value_heads else groups


def _experts(scores: BlockScores, old: Sizes, new: Sizes, groups: int) -> Places:
    if scores.experts_E is None:
        return None if old.num_experts is None else ()
    if new.num_experts is None or new.num_experts == len(scores.experts_E):
        return None
    return best(scores.experts_E, new.num_experts, shares=groups)


def _expert_channels(
    scores: BlockScores, experts: Places, new: Sizes, shares: int
) -> dict[int, tuple[int, ...]]:
    channels_EG, count = scores.expert_ffn_EG, new.moe_intermediate_size
    if channels_EG is None or count is None or count == channels_EG.shape[1]:
        return {}
    staying = range(len(channels_EG)) if experts is None else experts
    return {expert: best(channels_EG[expert], count, shares=shares) for expert in staying}
