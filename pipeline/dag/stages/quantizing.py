"""The stages that quantize a result."""

from typing import ClassVar, Literal

from pydantic import Field

from pipeline.dag.stages.base import BaseStage
from pipeline.spec.model import Dtype
from pipeline.spec.quantization import Gptq, Quantization


class RoundBlocks(BaseStage):
    """GPTQ block by block, as PruneBlocks walks: `checkpoint` → one whose weights are what codes and scales
    give. Takes `samples`. `reproducible`: see PruneSpec."""

    kind: Literal["round"] = "round"
    outputs: ClassVar = ("checkpoint",)
    unit: ClassVar = "block"
    form: Gptq
    compute_dtype: Dtype
    reproducible: bool = Field(default=True, exclude_if=bool)


class Quantize(BaseStage):
    """A form of `checkpoint` in the files that servers read, and a checkpoint of the weights that these files
    give back. Takes `rounded` where a method has chosen the codes, and `keep` where there are zeros, of which
    it makes a certificate."""

    kind: Literal["quantize"] = "quantize"
    outputs: ClassVar = ("quantized", "checkpoint")
    unit: ClassVar = "block"
    form: Quantization
