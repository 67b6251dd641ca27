"""What was found when a quantized form of a model was read back from what was written."""

from typing import ClassVar, Literal

from pipeline.artifacts.artifact import Artifact
from pipeline.artifacts.certificate import Certificate
from pipeline.canonical import Frozen
from pipeline.spec.quantization import Quantization


class QuantizedWeights(Frozen):
    """Content of `quantized.json`. `library`: what packed the weights and read them back. `matrices`: how
    many were quantized, with `weights` in all, of which `zeros` are zero as they are read back.

    `held`: the number of weights that are zero in the model before, and in the form, every one. `error`: the
    distance of the weights read back to those before, ||W' - W|| / ||W|| over all matrices. `bytes`,
    `ordinary_bytes`: the size of the form, and of the checkpoint before.
    """

    format: Literal["secateur-quantized/1"] = "secateur-quantized/1"
    name: str
    form: Quantization
    library: str
    matrices: int
    weights: int
    held: int
    zeros: int
    error: float
    bytes: int
    ordinary_bytes: int


class QuantizedRef(Artifact):
    """A quantized form of a model as servers read it, and what was found when it was read back."""

    kind: Literal["quantized"] = "quantized"
    content: ClassVar = {"quantized.json": QuantizedWeights, "certificate.json": Certificate}
