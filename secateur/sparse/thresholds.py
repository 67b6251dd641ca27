"""Measured limits: which kernel is faster, and which linears are worth being sparse (docs/sparse.md)."""

import torch

_FEW = 12.0


def way_of(tokens: int, density: float, instructions: str) -> str:
    """ "few" or "many": the faster kernels for this many tokens and share of elements with values."""
    return "few" if tokens <= 8 else "many"
