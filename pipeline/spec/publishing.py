"""The part of a spec that says what is published beside the ordinary checkpoint."""

from typing import Literal

from pipeline.canonical import Frozen

PackedValues = Literal["float32", "bf16", "int8"]
PACKED_FOLDER = "sparse"  # the packed checkpoint, in the published directory


class Publishing(Frozen):
    """`sparse`: the pruned weights as bits and values too, below `sparse/`, with values of this type. `bf16`
    and `float32` give every bit of a checkpoint in bfloat16 back, `float32` also those of one in float32 or
    float16; `int8` has a scale for every 128 columns of a row, and rounds. The directory runs by itself with
    `secateur.sparse`, and `secateur unpack` makes the ordinary checkpoint of it."""

    sparse: PackedValues
