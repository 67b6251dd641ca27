"""A linear whose weight is sparse."""

import torch
from torch import Tensor, nn

from secateur.sparse import operators
from secateur.sparse.packed import Packed
from secateur.sparse.pairs import paired, without

PERMUTING = ("avx512",)  # instruction sets with kernels for pairs
PADDING = 64  # a kernel reads this many values at once, past the last one too


class SparseLinear(nn.Module):
    """y = x W^T + b on the CPU, with a weight W [R, C] of bits and values. It has no gradients.

    The packed weight is no buffer: `to(dtype)` leaves it as it is. Results are what torch gives for the dense
    weight, zeros included: an infinite or NaN input gives NaN where its weight is zero.
    """

    bias: Tensor | None

    def __init__(self, packed: Packed, bias: Tensor | None) -> None:
        super().__init__()
        self.out_features, self.in_features = packed.shape
        self.density = packed.density
        pairs = paired(packed) if operators.backend() in PERMUTING else None
        packed = packed if pairs is None else pairs.packed
        self._codes = None if pairs is None else pairs.codes
        self._added = None if pairs is None else pairs.added
        self.nbytes = packed.nbytes + (0 if self._codes is None else self._codes.nbytes)
        self._bits = packed.bits.contiguous()
        self._values = nn.functional.pad(packed.values, (0, PADDING))
        self._scales = None if packed.scales is None else packed.scales.contiguous()
        self._group = packed.group or 0
        self._starts = nn.functional.pad(packed.counts().cumsum(0), (1, 0))
        self.register_buffer("bias", None if bias is None else bias.detach())

    @classmethod
    def of(cls, packed: Packed, bias: Tensor | None = None) -> "SparseLinear":
        """The linear of this weight and bias [R]. Raises ValueError when the bias has another shape."""
        if bias is not None and tuple(bias.shape) != packed.shape[:1]:
            raise ValueError(f"the bias has shape {tuple(bias.shape)}, and the weight {packed.shape[0]} rows")
        return cls(packed, bias)

    @property
    def values_dtype(self) -> torch.dtype:
        """The type of the packed values."""
        return self._values.dtype

    @property
    def backend(self) -> str:
        """What computes: "avx512", "avx2", "neon" or "plain" of the native library, or "torch" without it."""
        return operators.backend()

    def packed(self) -> Packed:
        """The weight and what belongs to it, as it was given."""
        values = self._values[: self._values.shape[0] - PADDING]
        shape = (self.out_features, self.in_features)
        held = Packed(shape, self._bits, values, self._scales, self._group or None)
        return held if self._added is None else without(held, self._added)

    def forward(self, x: Tensor) -> Tensor:
        """[..., R] of x [..., C], in the type of x. Sums are float32."""
        flat = x.reshape(-1, self.in_features).float()
        # Outside of torch.compile the operator's function is called at once: the way through it costs 5 us.
        product = torch.ops.secateur_sparse.linear if torch.compiler.is_compiling() else operators.linear
        parts = (self._bits, self._values, self._starts, self._scales, self._group)
        made = product(flat, *parts, codes=self._codes)
        if self.bias is not None:
            made = made + self.bias
        return made.to(x.dtype).view(*x.shape[:-1], self.out_features)

    def extra_repr(self) -> str:
        """What `print(model)` shows."""
        kind = str(self.values_dtype).removeprefix("torch.")
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, "
            f"bias={self.bias is not None}, values={kind}, density={self.density:.3f}"
        )

    def _save_to_state_dict(self, destination: object, prefix: str, keep_vars: bool) -> None:
        raise TypeError(
            f"{prefix.rstrip('.') or 'this linear'} is sparse and is not in a state dict: store its "
            "`packed()`, or the dense weight `packed().dense()`"
        )
