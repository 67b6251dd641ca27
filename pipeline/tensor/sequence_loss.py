"""The loss of a language model on one sequence.

Shape legend: L tokens, V vocabulary.
"""

import torch
from torch import Tensor
from torch.nn import functional

from pipeline.tensor.pairs import parted

LOSS_ROWS = 256  # logits are turned into losses this many tokens at a time


def loss_parts(logits_LV: Tensor, targets_L: Tensor) -> list[Tensor]:
    """The cross-entropy in nats of predictions, `logits_LV` of `targets_L`, as float64 scalars whose sum it
    is. They lie on the device of the logits, so that those of many sequences can be read at once."""
    return [
        functional.cross_entropy(rows.float(), targets, reduction="sum").double()
        for rows, targets in zip(logits_LV.split(LOSS_ROWS), targets_L.split(LOSS_ROWS), strict=True)
    ]


def whole_loss(model: torch.nn.Module, tokens_L: Tensor, *, scored: int) -> float:
    """The cross-entropy in nats, summed over the last `scored` predictions of a sequence or of a pair
    (pairs.py), of a transformers model that is in memory as a whole. The model may have other linears than
    transformers gave it."""
    read_L, written_L = parted(tokens_L)
    with torch.no_grad():
        if len(written_L):  # as labels, which the model shifts to what its decoder gets
            logits_LV = model(input_ids=read_L[None], labels=written_L[None], use_cache=False).logits[0]
        else:
            logits_LV = model(input_ids=tokens_L[None], use_cache=False).logits[0][:-1]
            written_L = tokens_L[1:]
        targets_L = written_L[-scored:].to(logits_LV.device)
        return sum(float(part) for part in loss_parts(logits_LV[-scored:], targets_L))
