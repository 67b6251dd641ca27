"""The torch operators of sparse linears, and what computes them.

T tokens, R rows, C columns, N values, G groups of columns.
"""

import functools
import warnings

import torch
from torch import Tensor
from torch.nn.functional import linear as torch_linear

from secateur.sparse.building import NotBuilt
from secateur.sparse.library import Native, native
from secateur.sparse.packed import BLOCK, dense
from secateur.sparse.thresholds import way_of

_LIBRARY = torch.library.Library("secateur_sparse", "DEF")
_LIBRARY.define(
    "linear(Tensor x, Tensor bits, Tensor values, Tensor starts, Tensor? scales, int group, "
    "str? way=None, Tensor? codes=None) -> Tensor"
)
_LIBRARY.define("dense_linear(Tensor x, Tensor values, Tensor? scales, int group) -> Tensor")


def backend() -> str:
    """What computes: the instruction set of the native library ("avx512", "avx2", "neon" or "plain"), or
    "torch" where the library cannot be built, which a warning tells once."""
    found = _native()
    return "torch" if found is None else found.chosen


def linear(
    x: Tensor,
    bits: Tensor,
    values: Tensor,
    starts: Tensor,
    scales: Tensor | None,
    group: int,
    way: str | None = None,
    codes: Tensor | None = None,
) -> Tensor:
    """float32 [T, R] of x float32 [T, C] and the parts of a Packed weight, by the native library or by torch.

    `starts` int64 [R + 1] tells where the values of each row begin. `values` has 64 elements more than the
    bits need. `way`: "few" or "many" are the kernels for that many tokens; None takes the faster ones.
    `codes`: those of Pairs, which the kernels of some instruction sets use. Raises ValueError where shapes or
    types do not fit.
    """
    rows = bits.shape[0]
    if x.dtype != torch.float32 or x.ndim != 2 or -(-x.shape[1] // 8) != bits.shape[1]:
        raise ValueError(
            f"x is {x.dtype} {tuple(x.shape)}; it must be float32 with {bits.shape[1]} * 8 columns at most"
        )
    if starts.shape[0] != rows + 1:
        raise ValueError(f"starts has {starts.shape[0]} elements, and needs {rows + 1} for {rows} rows")
    if codes is not None and (codes.shape != bits.shape or x.shape[1] % BLOCK):
        raise ValueError(
            f"codes are {tuple(codes.shape)}, and need the shape of the bits, {tuple(bits.shape)}"
        )
    if (found := _native()) is None:
        return plain_linear(x, bits, values, scales, group)
    return found.product(
        x.contiguous(),
        values,
        rows=rows,
        bits=bits,
        starts=starts,
        scales=scales,
        group=group,
        way=way or way_of(x.shape[0], values.shape[0] / (rows * x.shape[1]), found.chosen),
        codes=codes,
    )


def plain_linear(x: Tensor, bits: Tensor, values: Tensor, scales: Tensor | None, group: int) -> Tensor:
    """The same in plain torch: the weight becomes dense for the time of the call."""
    weight = dense(bits, values, scales=scales, group=group or None, columns=x.shape[1])
    return torch_linear(x, weight.float())


def dense_linear(x: Tensor, values: Tensor, scales: Tensor | None, group: int) -> Tensor:
    """float32 [T, R] of x float32 [T, C] and a dense weight, [R * C + 64] values, by the same kernels."""
    columns = x.shape[1]
    rows = (values.shape[0] - BLOCK) // columns
    if x.dtype != torch.float32 or rows * columns + BLOCK != values.shape[0]:
        raise ValueError(
            f"x {x.dtype} {tuple(x.shape)} does not fit a weight of {values.shape[0] - BLOCK} values"
        )
    if (found := _native()) is None:
        weight = values[: rows * columns].view(rows, columns).float()
        if scales is not None:
            weight = weight * scales.repeat_interleave(group, dim=1)[:, :columns]
        return torch_linear(x, weight)
    return found.product(
        x.contiguous(),
        values,
        rows=rows,
        bits=None,
        starts=None,
        scales=scales,
        group=group,
        way=way_of(x.shape[0], 1, found.chosen),
    )


@functools.cache
def _native() -> Native | None:
    try:
        return native()
    except NotBuilt as error:
        warnings.warn(f"sparse linears run in plain torch, slower than dense ones: {error}", stacklevel=2)
        return None


def _fake_linear(
    x: Tensor,
    bits: Tensor,
    values: Tensor,
    starts: Tensor,
    scales: Tensor | None,
    group: int,
    way: str | None = None,
    codes: Tensor | None = None,
) -> Tensor:
    return x.new_empty(x.shape[0], bits.shape[0])


def _fake_dense_linear(x: Tensor, values: Tensor, scales: Tensor | None, group: int) -> Tensor:
    return x.new_empty(x.shape[0], (values.shape[0] - BLOCK) // x.shape[1])


_LIBRARY.impl("linear", linear, "CPU")
_LIBRARY.impl("dense_linear", dense_linear, "CPU")
torch.library.register_fake("secateur_sparse::linear", _fake_linear, lib=_LIBRARY)
torch.library.register_fake("secateur_sparse::dense_linear", _fake_dense_linear, lib=_LIBRARY)
