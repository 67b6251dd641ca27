"""The model of a spec, and the number types in which it may run."""

from typing import Literal

from pipeline.canonical import Frozen
from pipeline.spec.uri import ModelUri

Dtype = Literal["float32", "bfloat16", "float16"]


class ModelSource(Frozen):
    """A Hugging Face checkpoint with safetensors weights."""

    source: ModelUri
