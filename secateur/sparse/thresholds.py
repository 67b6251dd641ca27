"""Which kernels are faster, as measured (docs/sparse-kernels.md)."""

_FEW_TOKENS = 8
_FEW_TOKENS_OF_FEW_VALUES = 4  # below this density it pays earlier to skip zeros than to expand them
_FEW_VALUES = 0.2


def way_of(tokens: int, density: float, instructions: str) -> str:
    """The faster kernels, "few" or "many", for this many tokens and share of elements with values.

    "many" skips zeros, and without vector instructions nothing else pays. With them, the two cost the same at
    about 8 tokens and 70 % zeros, and at about 4 tokens and 90 %.
    """
    if instructions == "plain":
        return "many"
    most = _FEW_TOKENS if density >= _FEW_VALUES else _FEW_TOKENS_OF_FEW_VALUES
    return "few" if tokens <= most else "many"
