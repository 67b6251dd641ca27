"""Statistics of a linear's input over calibration tokens, the same bits however samples are distributed.

Norms and means are kept per sample and added up in sample order. Grams are too large to be kept per sample:
they are added up along a fixed binary tree over the samples (GramTree), whose parts any worker may compute.

Shape legend: I in_features, T tokens of one sample, S samples of one worker.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.tensor.needs import Statistic

LEAVES = 32  # of the tree; further workers have no samples

Node = tuple[int, int]  # level from 0 at the leaves, index within the level
Gram = Mapping[Node, Tensor]  # disjoint parts of the tree


@dataclass(frozen=True)
class LinearStatistics:
    """The statistics over all calibration samples; those that were not requested are None.

    `tokens`: the number of tokens that reached the linear; an expert gets only those that are routed to it,
    possibly none. `input_norm_I`: sqrt of the mean over samples of the squared L2 norm of each input feature
    over the sample's tokens, float32 [I] (Wanda, arXiv 2306.11695). `input_mean_I`, `input_variance_I`: over
    all tokens, float32 [I]. `hessian_II`: (2/n) Σ x xᵀ over the tokens of n samples, float32 [I, I]
    (SparseGPT, arXiv 2301.00774). `channel_score_C`: mean over samples of the L2 norm of each input feature
    over the sample's tokens, or of the features of an attention head together (Minitron, arXiv 2407.14679),
    float32.
    """

    input_norm_I: Tensor
    samples: int
    tokens: int
    input_mean_I: Tensor | None = None
    input_variance_I: Tensor | None = None
    hessian_II: Tensor | None = None
    channel_score_C: Tensor | None = None

    def to(self, device: torch.device) -> "LinearStatistics":
        """Returns the same statistics on another device."""

        def moved(tensor: Tensor | None) -> Tensor | None:
            return None if tensor is None else tensor.to(device)

        return LinearStatistics(
            self.input_norm_I.to(device),
            self.samples,
            self.tokens,
            moved(self.input_mean_I),
            moved(self.input_variance_I),
            moved(self.hessian_II),
            moved(self.channel_score_C),
        )


@dataclass
class InputShare:
    """The contribution of one worker's samples, from the sample `first` on, to the statistics of a linear's
    input. `channel`: the number of features that make up one scored channel, 0 if none is scored. `tokens_S`
    is on the CPU, because shapes are known without waiting for a device."""

    squares_SI: Tensor
    sums_SI: Tensor | None
    tokens_S: Tensor
    first: int = 0
    channel: int = 0

    @classmethod
    def empty(
        cls,
        sequences: int,
        in_features: int,
        needs: Iterable[Statistic],
        *,
        first: int = 0,
        channel: int = 0,
        device: torch.device | None = None,
    ) -> "InputShare":
        """Returns a share to which samples are added. All its memory is allocated at once, where the block
        runs: small results allocated between a block's temporary tensors would keep that memory from being
        freed."""
        squares_SI = torch.zeros(sequences, in_features, device=device)
        sums_SI = torch.zeros(sequences, in_features, device=device) if "input_mean" in needs else None
        tokens_S = torch.zeros(sequences, dtype=torch.long)
        return cls(squares_SI, sums_SI, tokens_S, first, channel)

    def record(self, sample: int, x_TI: Tensor) -> None:
        """Adds one sample's inputs."""
        x_TI = x_TI.float()
        self.tokens_S[sample] = x_TI.shape[0]
        self.squares_SI[sample] = x_TI.square().sum(dim=0)
        if self.sums_SI is not None:
            self.sums_SI[sample] = x_TI.sum(dim=0)


def to_cpu(shares: Sequence[InputShare]) -> None:
    """Moves the sums of all shares to the CPU, in one copy for all of them."""
    sums = [part for one in shares for part in (one.squares_SI, one.sums_SI) if part is not None]
    if not sums or sums[0].device.type == "cpu":
        return
    together = torch.cat([part.flatten() for part in sums]).cpu()
    moved = [
        part.view_as(there)
        for part, there in zip(together.split([one.numel() for one in sums]), sums, strict=True)
    ]
    arrived = iter(moved)
    for share in shares:
        share.squares_SI = next(arrived)
        if share.sums_SI is not None:
            share.sums_SI = next(arrived)


def merge(shares: Sequence[InputShare]) -> LinearStatistics:
    """Combines the shares of all workers, in sample order.

    They are summed in float64 in that order, so that any distribution of the samples over workers gives the
    same bits.
    """
    shares = sorted(shares, key=lambda share: share.first)
    squares_SI = torch.cat([share.squares_SI for share in shares])
    samples = len(squares_SI)
    total_I = squares_SI.double().sum(dim=0)
    norm_I = (total_I / samples).sqrt().float()
    tokens = int(torch.cat([share.tokens_S for share in shares]).sum())
    score_C = _channel_score(squares_SI, shares[0].channel)
    sums = [share.sums_SI for share in shares if share.sums_SI is not None]
    if not sums:
        return LinearStatistics(norm_I, samples, tokens, channel_score_C=score_C)
    count = max(tokens, 1)  # an expert may have received none
    mean_I = torch.cat(sums).double().sum(dim=0) / count
    variance_I = (total_I / count - mean_I.square()).clamp(min=0)
    return LinearStatistics(
        norm_I, samples, tokens, mean_I.float(), variance_I.float(), channel_score_C=score_C
    )


def _channel_score(squares_SI: Tensor, channel: int) -> Tensor | None:
    if channel == 0:
        return None
    squares_SC = squares_SI.double().unflatten(1, (-1, channel)).sum(dim=2)
    return squares_SC.sqrt().mean(dim=0).float()


def leaf_size(samples: int) -> int:
    """The number of samples in one leaf of the tree, however many workers there are."""
    return max(1, -(-samples // LEAVES))


def share_edges(samples: int, workers: int) -> list[int]:
    """The `workers` + 1 numbers at which contiguous shares of the samples begin and end. They are edges of
    leaves, and the shares are as even as these allow."""
    leaf = leaf_size(samples)
    leaves = -(-samples // leaf)
    return [min(samples, i * leaves // workers * leaf) for i in range(workers + 1)]


class GramTree:
    """Σ xᵀx of consecutive samples, added up along the branches of a binary tree over all samples.

    A leaf is the sum of `leaf` samples, added in order; two neighbours are added when both are complete. The
    parts of several workers, taken in sample order, give the bits that one worker would give. At most one
    part per level is in memory. `first`: index of the first sample, which must begin a leaf.
    """

    def __init__(self, in_features: int, *, leaf: int, first: int, device: torch.device) -> None:
        self._leaf, self._next, self._added = leaf, first // leaf, 0
        self._current_II = torch.zeros(in_features, in_features, device=device)
        self._parts: dict[Node, Tensor] = {}

    def add(self, x_TI: Tensor) -> None:
        """Adds one sample."""
        x_TI = x_TI.float()
        self._current_II.addmm_(x_TI.t(), x_TI)
        self._added += 1
        if self._added == self._leaf:
            self._close()

    def parts(self) -> dict[Node, Tensor]:
        """Returns the sums so far, on the device of the samples. The very last leaf may be smaller; calling
        this completes it."""
        if self._added:
            self._close()
        return dict(self._parts)

    def _close(self) -> None:
        self._parts = pushed(self._parts, (0, self._next), self._current_II)
        self._next, self._added = self._next + 1, 0
        self._current_II = torch.zeros_like(self._current_II)


def hessian(gram_II: Tensor, *, samples: int) -> Tensor:
    """Returns (2/n) Σ xᵀx, float32 [I, I], from the sum over all samples."""
    return gram_II * (2 / samples)


def tree_sum(grams: Sequence[Gram]) -> Tensor:
    """Returns the sum of the workers' parts, in sample order. The parts are not changed."""
    parts: Gram = {}
    for gram in grams:
        for node, part in gram.items():
            parts = pushed(parts, node, part)
    total, *left = reversed(list(parts.values()))  # several, unless the number of leaves is a power of two
    for part in left:
        total = part + total
    return total


def pushed(parts: Gram, node: Node, part: Tensor) -> dict[Node, Tensor]:
    """Returns the parts with the next one in sample order added: it joins its left neighbour, the sum joins
    its own, and so on."""
    left = dict(parts)
    level, index = node
    while index % 2 == 1 and (level, index - 1) in left:
        part = left.pop((level, index - 1)) + part
        level, index = level + 1, index // 2
    left[level, index] = part
    return left
