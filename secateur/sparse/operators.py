"""The torch operators of sparse linears, and what computes them.

T tokens, R rows, C columns, N values, G groups of columns.
"""

import torch
from torch import Tensor
from torch.nn.functional import linear as torch_linear

from secateur.sparse.packed import dense

_LIBRARY = torch.library.Library("secateur_sparse", "DEF")
_LIBRARY.define(
    "linear(Tensor x, Tensor bits, Tensor values, Tensor starts, Tensor? scales, int group) -> Tensor"
)


def backend() -> str:
    """What computes: the instruction set of the native library, or "torch"."""
    return "torch"


def plain_linear(
    x: Tensor, bits: Tensor, values: Tensor, starts: Tensor, scales: Tensor | None, group: int
) -> Tensor:
    """float32 [T, R] of x float32 [T, C]: the weight becomes dense for the time of the call."""
    weight = dense(bits, values, scales=scales, group=group or None, columns=x.shape[1])
    return torch_linear(x, weight.float())


def _fake_linear(
    x: Tensor, bits: Tensor, values: Tensor, starts: Tensor, scales: Tensor | None, group: int
) -> Tensor:
    return x.new_empty(x.shape[0], bits.shape[0])


_LIBRARY.impl("linear", plain_linear, "CPU")
torch.library.register_fake("secateur_sparse::linear", _fake_linear, lib=_LIBRARY)
