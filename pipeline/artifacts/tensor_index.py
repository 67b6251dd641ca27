"""The position of each tensor of a checkpoint, and the digest of its bytes.

With it, one ranged read fetches one tensor from any store, and the tensor can be verified on its own.
"""

from pipeline.canonical import Frozen


class TensorEntry(Frozen):
    """One tensor: the artifact's file that holds it, its byte range there, and the SHA-256 of its bytes.

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
