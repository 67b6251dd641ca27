"""The stages that write a result for the targets of its spec, open it there, and measure it."""

from typing import ClassVar, Literal

from pydantic import Field

from pipeline.dag.stages.base import BaseStage
from pipeline.spec.evaluation import PerplexityText
from pipeline.spec.publishing import PackedValues
from pipeline.spec.targets import Target, TargetKind


class ExportTarget(BaseStage):
    """A checkpoint in the form that a target reads."""

    kind: Literal["export_target"] = "export_target"
    outputs: ClassVar = ("export",)
    unit: ClassVar = "file"
    target: TargetKind


class OpenTarget(BaseStage):
    """The opening of published files in a target, in a process of its own, and a comparison of its answers
    with transformers'. Takes `published`. What disagrees is not published. `values`: of packed weights."""

    kind: Literal["open_target"] = "open_target"
    outputs: ClassVar = ("check",)
    unit: ClassVar = "check"
    target: TargetKind
    tensor_parallel: int = 1
    values: PackedValues | None = Field(default=None, exclude_if=lambda values: values is None)


class MeasureServing(BaseStage):
    """The speed and memory of a target with the `dense` and the `final` checkpoint, and with their
    `dense_export` and `final_export` where it reads files of its own. Takes `check`, so that only what agrees
    is measured. Each job measures anew, on its own machines. `perplexity`: the texts on which the target's
    model and what it is compared with are measured too."""

    kind: Literal["measure_serving"] = "measure_serving"
    outputs: ClassVar = ("serving",)
    reusable: ClassVar = False
    names_sources: ClassVar = True
    unit: ClassVar = "opening"
    target: Target
    perplexity: tuple[PerplexityText, ...] = Field(default=(), exclude_if=lambda texts: not texts)
