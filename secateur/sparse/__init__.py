"""Pruned linears that run faster on CPUs: weights as bits and values, and kernels that compute with them.

This package needs torch, numpy and safetensors, and transformers where a model is loaded. It knows nothing of
jobs, clusters and the API.
"""

from secateur.sparse.errors import SparseError
from secateur.sparse.linear import SparseLinear
from secateur.sparse.loading import load
from secateur.sparse.packed import Packed, pack

__all__ = ["Packed", "SparseError", "SparseLinear", "load", "pack"]
