"""PruneSpec, the science of a job, and what stands beside it in the body of POST /jobs.

Everything in the spec changes the result and enters stage keys, defaults included. Resources, labels and
priority change where and when a job runs, never its bits.
"""

import re
from typing import Annotated, Literal, Self

from pydantic import Field, StringConstraints, field_validator, model_validator

from pipeline.allocations import Allocation
from pipeline.allocations.uniform import Uniform
from pipeline.canonical import Frozen
from pipeline.evaluation import Evaluation
from pipeline.methods import Method
from pipeline.patterns import Pattern
from pipeline.sources.uri import SourceUri
from pipeline.texts import Calibration

Dtype = Literal["float32", "bfloat16", "float16"]
Label = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9]([A-Za-z0-9._/-]{0,61}[A-Za-z0-9])?$")]
UNITS = {"KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}


class ModelSource(Frozen):
    """A Hugging Face checkpoint with safetensors weights."""

    source: SourceUri


class Prune(Frozen):
    """Which weights become zero.

    `propagation`: `pruned` measures each block on what the already pruned blocks before it produce, as the
    published code does; `dense` measures every block on the dense model's activations.
    """

    method: Method
    allocation: Allocation = Field(default_factory=Uniform)
    pattern: Pattern
    propagation: Literal["pruned", "dense"] = "pruned"


class SpecTemplate(Frozen):
    """A PruneSpec whose model may still be open: a schedule fills it in."""

    model: ModelSource | None = None
    calibration: Calibration | None = None
    prune: Prune
    evaluation: Evaluation = Field(default_factory=Evaluation)
    compute_dtype: Dtype = Field(
        default="float32", description="Type of weights and activations while measuring and evaluating."
    )

    @model_validator(mode="after")
    def _agreement(self) -> Self:
        if self.needs_calibration and self.calibration is None:
            reason = (
                f"method {self.prune.method.kind}"
                if self.prune.method.needs_statistics
                else f"allocation {self.prune.allocation.kind}"
            )
            raise ValueError(f"calibration is missing: {reason} measures the model on calibration samples")
        return self

    @property
    def needs_calibration(self) -> bool:
        """Whether any part of the spec looks at activations."""
        return self.prune.method.needs_statistics or self.prune.allocation.outlier_multiplier is not None

    @property
    def needs_tokenizer(self) -> bool:
        """Whether any part of the spec turns text into tokens."""
        judged = self.evaluation.perplexity or self.evaluation.tasks is not None
        return self.needs_calibration or bool(judged)


class PruneSpec(SpecTemplate):
    """What to prune, how, and how it is judged."""

    model: ModelSource


class Resources(Frozen):
    """What each worker of a stage reserves on the Ray cluster.

    `threads` follow `cpus_per_worker`: on one kind of hardware, equal thread counts give equal bits, however
    many workers share the samples.
    """

    workers: int = Field(default=1, ge=1, le=4096)
    cpus_per_worker: int = Field(default=1, ge=1, le=1024)
    gpus_per_worker: float = Field(default=0, ge=0, le=64)
    memory_per_worker: str = Field(default="2GiB", examples=["64GiB"])
    placement_timeout_seconds: int = Field(default=600, ge=1, le=604_800)

    @field_validator("memory_per_worker")
    @classmethod
    def _parses(cls, value: str) -> str:
        if not re.fullmatch(r"[1-9]\d*(KiB|MiB|GiB|TiB)", value):
            raise ValueError(f"got {value!r}; write a whole number with KiB, MiB, GiB or TiB, such as 64GiB")
        return value

    @field_validator("gpus_per_worker")
    @classmethod
    def _whole_or_fraction(cls, value: float) -> float:
        if value > 1 and value != int(value):
            raise ValueError(f"got {value}; a worker takes a fraction of one GPU, or a whole number of them")
        return value

    @property
    def memory_bytes(self) -> int:
        """memory_per_worker in bytes."""
        return int(self.memory_per_worker[:-3]) * UNITS[self.memory_per_worker[-3:]]


class JobTemplate(Frozen):
    """A JobRequest whose model may still be open."""

    spec: SpecTemplate
    resources: Resources = Field(default_factory=Resources)
    priority: int = Field(default=0, ge=-100, le=100, description="Higher starts first.")
    labels: dict[Label, Label] = Field(default_factory=dict, max_length=32)
    name: str | None = Field(default=None, min_length=1, max_length=100)


class JobRequest(JobTemplate):
    """Body of POST /jobs and POST /plans."""

    spec: PruneSpec


def check_against_model(spec: PruneSpec, *, model_type: str, blocks: int, max_positions: int | None) -> None:
    """Checks that need the model's config. Raises InvalidRequest subclasses that name the field."""
    from pipeline.architecture import row_for
    from pipeline.errors import SequenceTooLong

    row_for(model_type)
    spec.prune.method.check(spec.prune.pattern)
    spec.prune.allocation.check(spec.prune.pattern, blocks=blocks)
    if max_positions is None:
        return
    lengths = [
        (text.sequence_length, f"spec.evaluation.perplexity.{i}")
        for i, text in enumerate(spec.evaluation.perplexity)
    ]
    if spec.calibration is not None:
        lengths.append((spec.calibration.sequence_length, "spec.calibration"))
    for length, field in lengths:
        if length > max_positions:
            raise SequenceTooLong(
                f"sequence_length {length} is longer than the model's {max_positions} positions; "
                f"use {max_positions} or less",
                f"{field}.sequence_length",
            )
