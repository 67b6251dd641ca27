"""Sparse weights and inputs for the tests of kernels, drawn from a seed."""

from dataclasses import dataclass

import torch
from hypothesis import strategies as st
from torch import Tensor

TYPES = (torch.float32, torch.bfloat16, torch.int8)


@dataclass(frozen=True)
class Case:
    """A product to be made."""

    rows: int
    columns: int
    tokens: int
    density: float
    seed: int

    def weight(self) -> Tensor:
        """A weight [rows, columns] with about this density: row 0 is empty, and row 1 full, if there are so
        many. Its columns differ in size, so that the groups of int8 have different scales."""
        drawn = torch.Generator().manual_seed(self.seed)
        weight = torch.randn(self.rows, self.columns, generator=drawn)
        weight *= 1 + torch.arange(self.columns) // 64
        weight[torch.rand(weight.shape, generator=drawn) >= self.density] = 0
        if self.rows > 2:
            weight[0] = 0
            weight[1] = torch.randn(self.columns, generator=drawn)
        return weight

    def x(self) -> Tensor:
        """Inputs [tokens, columns]."""
        return torch.randn(self.tokens, self.columns, generator=torch.Generator().manual_seed(self.seed + 1))


CASES = st.builds(
    Case,
    rows=st.integers(1, 40),
    columns=st.integers(1, 300),
    tokens=st.integers(1, 40),
    density=st.sampled_from([0.0, 0.1, 0.3, 0.5, 1.0]),
    seed=st.integers(0, 1000),
)


def exact(x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """The product in float64, and the most by which a float32 sum in any order may differ from it."""
    x, weight = x.double(), weight.double()
    allowed = torch.finfo(torch.float32).eps * (x.shape[1] + 2) * (x.abs() @ weight.abs().T)
    return x @ weight.T, allowed + torch.finfo(torch.float32).tiny
