"""A dense linear by kernels of the same make, to compare with: what the zeros alone gain."""

import torch
from torch import Tensor, nn

from secateur.sparse.linear import PADDING
from secateur.sparse.packed import GROUP, VALUE_TYPES, quantized


class DenseLinear(nn.Module):
    """y = x W^T + b on the CPU, with a dense weight of float32, bfloat16, or int8 with scales."""

    bias: Tensor | None

    def __init__(self, values: Tensor, scales: Tensor | None, bias: Tensor | None) -> None:
        super().__init__()
        self.out_features, self.in_features = values.shape
        self._values = nn.functional.pad(values.flatten(), (0, PADDING))
        self._scales = scales
        self.register_buffer("bias", None if bias is None else bias.detach())

    @classmethod
    def of(
        cls, weight: Tensor, *, values: torch.dtype = torch.bfloat16, bias: Tensor | None = None
    ) -> "DenseLinear":
        """The linear of a weight [R, C], held as `values`; int8 has a scale for every 128 columns."""
        if values not in VALUE_TYPES:
            raise ValueError(f"values={values} is not known; use float32, bfloat16 or int8 of torch")
        weight = weight.detach()
        if values != torch.int8:
            return cls(weight.to(values), None, bias)
        return cls(*quantized(weight.float(), GROUP), bias)

    def forward(self, x: Tensor) -> Tensor:
        """[..., R] of x [..., C], in the type of x. Sums are float32."""
        flat = x.reshape(-1, self.in_features).float()
        made = torch.ops.secateur_sparse.dense_linear(flat, self._values, self._scales, GROUP)
        if self.bias is not None:
            made = made + self.bias
        return made.to(x.dtype).view(*x.shape[:-1], self.out_features)
