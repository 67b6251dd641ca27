"""The conditions that a tensor-parallel size puts on a model's sizes."""

import math

from pipeline.errors import InvalidSpec
from pipeline.structure.sizes import Sizes

MULTIPLE = 128  # Megatron's --make-vocab-size-divisible-by, which applies to each rank


def padded_vocabulary(vocab_size: int, tensor_parallel: int) -> int:
    """Returns the rows of Megatron's embedding: the vocabulary, padded so that every rank has the same
    multiple of 128 rows."""
    multiple = MULTIPLE * tensor_parallel
    return -(-vocab_size // multiple) * multiple


def check_tensor_parallel(sizes: Sizes, tensor_parallel: int) -> None:
    """Raises InvalidSpec, with the valid sizes, unless every rank gets whole key-value groups (and their
    query heads with them) and equally many FFN channels."""
    ffn = sizes.intermediate_size or 0
    common = math.gcd(sizes.num_key_value_heads, ffn)
    valid = [size for size in range(1, common + 1) if common % size == 0]
    if tensor_parallel in valid:
        return
    least = min(abs(size - tensor_parallel) for size in valid)
    nearest = [str(size) for size in valid if abs(size - tensor_parallel) == least]
    raise InvalidSpec(
        f"--tensor-parallel={tensor_parallel} must divide the {sizes.num_key_value_heads} key-value groups "
        f"and the {ffn} FFN channels of the model; valid: {', '.join(map(str, valid))}; "
        f"nearest: {' or '.join(nearest)}",
        "tensor_parallel",
    )
