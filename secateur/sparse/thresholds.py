"""Measured limits: which kernels are faster, and which linears are worth being sparse (docs/sparse.md)."""

_FEW_TOKENS = 8
_FEW_TOKENS_OF_FEW_VALUES = 4  # below this density it pays earlier to skip zeros than to expand them
_FEW_VALUES = 0.2
_MOST_DENSITY = 0.6
_LEAST_WEIGHTS = 512 * 512  # below, calling the operator costs more than the zeros save


def way_of(tokens: int, density: float, instructions: str) -> str:
    """The faster kernels, "few" or "many", for this many tokens and share of elements with values.

    "many" skips zeros, and without vector instructions nothing else pays. With them, the two cost the same at
    about 8 tokens and 70 % zeros, and at about 4 tokens and 90 %.
    """
    if instructions == "plain":
        return "many"
    most = _FEW_TOKENS if density >= _FEW_VALUES else _FEW_TOKENS_OF_FEW_VALUES
    return "few" if tokens <= most else "many"


def worth(shape: tuple[int, int], density: float, instructions: str) -> bool:
    """Whether a linear [R, C] with this share of values is faster sparse than in torch's float32, for one
    token and for 256. `instructions` is what SparseLinear.backend says: none is worth it with "torch"."""
    if instructions == "torch":
        return False
    return density <= _MOST_DENSITY and shape[0] * shape[1] >= _LEAST_WEIGHTS
