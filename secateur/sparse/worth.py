"""Which linears a sparse product is faster for than torch's, as measured (docs/sparse-kernels.md)."""

from collections.abc import Mapping

# By instruction set: the largest share of values at which a product of 1, 64 and 256 tokens was faster than
# torch's in float32 for every shape and type of values that was measured. Plain C++ and torch's stand-in were
# slower throughout. NEON has not been measured; half of the zeros is on the safe side.
MOST_DENSITY: Mapping[str, float] = {"avx512": 0.8, "avx2": 0.8, "neon": 0.5}


# Instruction sets whose dense kernels in bfloat16 are faster than torch's product in float32.
READS_BFLOAT16 = ("avx512", "avx2")


def worth(density: float, instructions: str) -> bool:
    """Tell whether a weight with this share of values is faster when it is packed. `instructions`: what the
    kernels use, as `SparseLinear.backend` names it. The shape makes no difference from 576 x 1536 on."""
    return density <= MOST_DENSITY.get(instructions, 0)
