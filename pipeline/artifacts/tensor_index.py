"""The index of a checkpoint: the file, byte range and digest of each tensor.

With it one ranged read fetches a tensor from any store, and its digest verifies it.
"""

from pipeline.canonical import Frozen


class TensorEntry(Frozen):
    """One tensor: the file of the artifact that holds it, its byte range there, and the SHA-256 of its bytes.

    `dtype` is the safetensors name (F32, BF16, F16, U8 ...).
    """

    file: str
    start: int
    length: int
    dtype: str
    shape: tuple[int, ...]
    sha256: str


class TensorIndex(Frozen):
    """All tensors of a checkpoint by name."""

    tensors: dict[str, TensorEntry]
