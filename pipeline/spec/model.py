"""The model of a spec, and the number types in which it may run."""

from typing import Literal

from pipeline.canonical import Frozen
from pipeline.spec.uri import ModelUri

Dtype = Literal["float32", "bfloat16", "float16"]


def way_to_finite(dtype: Dtype) -> str:
    """Returns the remedy where a model with finite weights computes NaN or infinity in this type."""
    if dtype == "float32":
        return "compute_dtype is float32 already, so the model itself has no finite loss: prune less"
    wider = "bfloat16 or float32" if dtype == "float16" else "float32"
    return f"set compute_dtype to {wider}, or prune less"


class ModelSource(Frozen):
    """A Hugging Face checkpoint with safetensors weights."""

    source: ModelUri
