"""What the experts of a block give, over calibration tokens: the same bits however samples are distributed.

Sums are kept for each leaf of the tree over the samples (statistics.py). A worker has whole leaves, and adds
up the samples of a leaf in their order, so that any number of workers makes the same sums.

Shape legend: T tokens of one sample, K experts of a token, H hidden size, E experts, N leaves of one worker.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from pipeline.tensor.statistics import leaf_size


@dataclass(frozen=True)
class ExpertGains:
    """The sums over all calibration samples, float64.

    `sums_3E`: by expert the number of its tokens, the sum over them of the L2 norm of its output, and the
    same sum with each norm multiplied by the token's gate weight (REAP, arXiv 2510.13999, whose saliency is
    its mean over the expert's tokens). `products_2EE`, if they were asked for: for each two experts the inner
    products, summed over tokens, of their gated outputs (zero for a token that is not routed to both) and of
    the router's logits (REAM, arXiv 2604.04356).
    """

    sums_3E: Tensor
    products_2EE: Tensor | None = None


@dataclass
class GainShare:
    """The contribution of one worker's samples, from the sample `first` on, of which `leaf` make up a leaf.
    Its tensors have the sums of ExpertGains for each leaf, float64."""

    sums_N3E: Tensor
    products_N2EE: Tensor | None
    leaf: int
    first: int = 0

    @classmethod
    def empty(
        cls,
        experts: int,
        *,
        sequences: int,
        samples: int,
        first: int,
        products: bool,
        device: torch.device,
    ) -> "GainShare":
        """Returns a share for `sequences` of all `samples`, to which samples are added. `products`: whether
        experts are compared with one another."""
        leaf = leaf_size(samples)
        leaves = -(-sequences // leaf)
        sums_N3E = torch.zeros(leaves, 3, experts, dtype=torch.float64, device=device)
        products_N2EE = sums_N3E.new_zeros(leaves, 2, experts, experts) if products else None
        return cls(sums_N3E, products_N2EE, leaf, first)

    def record(
        self, sample: int, gates_TK: Tensor, chosen_TK: Tensor, outputs_TKH: Tensor, logits_TE: Tensor
    ) -> None:
        """Adds one sample, the `sample`-th of this worker. `gates_TK`: the weights with which the block adds
        up the outputs of the `chosen_TK` experts; `outputs_TKH`: those outputs, without the weights;
        `logits_TE`: the router's, which only products need."""
        gates_TK, outputs_TKH = gates_TK.float(), outputs_TKH.float()
        norms_TK = outputs_TKH.norm(dim=-1)
        experts = self.sums_N3E.shape[-1]

        def by_expert(values_TK: Tensor) -> Tensor:
            """Sums values over tokens. No expert is chosen twice for a token, so nothing is added up in an
            order that a device may change."""
            spread_TE = values_TK.new_zeros(len(values_TK), experts).scatter(1, chosen_TK, values_TK)
            return spread_TE.sum(dim=0, dtype=torch.float64)

        values = (torch.ones_like(norms_TK), norms_TK, gates_TK * norms_TK)
        place = sample // self.leaf
        self.sums_N3E[place] += torch.stack([by_expert(one) for one in values])
        if self.products_N2EE is None:
            return
        gated_TKH = outputs_TKH * gates_TK[..., None]
        inner_TKK = gated_TKH @ gated_TKH.transpose(1, 2)
        place_TKE = inner_TKK.new_zeros(*chosen_TK.shape, experts).scatter(2, chosen_TK[..., None], 1.0)
        outputs_EE = place_TKE.flatten(0, 1).t() @ (inner_TKK @ place_TKE).flatten(0, 1)
        logits_TE = logits_TE.float()
        self.products_N2EE[place] += torch.stack([outputs_EE, logits_TE.t() @ logits_TE])

    def on_cpu(self) -> "GainShare":
        """Returns the same sums in main memory."""
        products = self.products_N2EE
        return replace(
            self,
            sums_N3E=self.sums_N3E.cpu(),
            products_N2EE=None if products is None else products.cpu(),
        )


def merge_gains(shares: Sequence[GainShare]) -> ExpertGains:
    """Adds up the leaves of all workers, in sample order."""
    shares = sorted(shares, key=lambda share: share.first)
    products = [share.products_N2EE for share in shares if share.products_N2EE is not None]
    return ExpertGains(
        torch.cat([share.sums_N3E for share in shares]).sum(dim=0),
        torch.cat(products).sum(dim=0) if products else None,
    )
