"""Which linears a sparse product is faster for than the dense one."""

MOST_DENSITY = 0.6  # with a larger share of values, bits and values are no less to read than the dense weight


def worth(shape: tuple[int, int], density: float, isa: str) -> bool:
    """Tell whether a weight of `shape` (rows, columns) with this share of values is faster when it is packed.
    `isa`: what the kernels use, as `SparseLinear.backend` names it; the stand-in in torch is never faster."""
    return isa != "torch" and density <= MOST_DENSITY
