"""Where each tensor of a checkpoint lies and what its bytes hash to.

With it one tensor is read from any store by one ranged read, and verified on its own.
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
