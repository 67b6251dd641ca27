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
from pipeline.model import Dtype, ModelSource
from pipeline.patterns import Pattern
from pipeline.recovery import Recovery
from pipeline.texts import Calibration
from pipeline.tracking import Tracking

Label = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9]([A-Za-z0-9._/-]{0,61}[A-Za-z0-9])?$")]
UNITS = {"KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}


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
    """A PruneSpec whose model may still be open: a schedule fills it in.

    Without `prune` the dense model is trained as it is.
    """

    model: ModelSource | None = None
    calibration: Calibration | None = None
    prune: Prune | None = None
    recovery: Recovery | None = None
    evaluation: Evaluation = Field(default_factory=Evaluation)
    compute_dtype: Dtype = Field(
        default="float32", description="Type of weights and activations while measuring and evaluating."
    )

    @model_validator(mode="after")
    def _agreement(self) -> Self:
        if self.prune is None and self.recovery is None:
            raise ValueError("prune and recovery are both missing: nothing would be done to the model")
        if self.prune is not None and self.needs_calibration and self.calibration is None:
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
        if self.prune is None:
            return False
        return self.prune.method.needs_statistics or self.prune.allocation.outlier_multiplier is not None

    @property
    def makes_zeros(self) -> bool:
        """Whether the result has weights that must be zero."""
        return self.prune is not None or (self.recovery is not None and self.recovery.keep.kind == "gradual")

    @property
    def needs_tokenizer(self) -> bool:
        """Whether any part of the spec turns text into tokens."""
        judged = self.evaluation.perplexity or self.evaluation.tasks is not None
        return self.needs_calibration or self.recovery is not None or bool(judged)


class PruneSpec(SpecTemplate):
    """What to prune, how, and how it is judged."""

    model: ModelSource


class Offload(Frozen):
    """What ZeRO keeps in the CPU's memory instead of the GPU's. Parameters need stage 3."""

    optimizer: bool = False
    parameters: bool = False


class TrainingResources(Frozen):
    """How recovery training is split over workers, in DeepSpeed's terms. It changes speed and memory only.

    `workers`: left out, all of the job's. `min_workers`: training goes on with that many when nodes are lost;
    left out, it waits for all. micro_batch_size · gradient_accumulation_steps · workers is
    spec.recovery.global_batch_size; left out, gradient_accumulation_steps follows from it. `teacher`: `whole`
    on every worker, `sharded` over them (ZeRO 3), or sharded and `offloaded` to the CPU's memory.
    `save_every_steps`: what at most is lost with a worker.
    """

    zero_stage: Literal[1, 2, 3] = 1
    micro_batch_size: int = Field(default=1, ge=1)
    gradient_accumulation_steps: int | None = Field(default=None, ge=1)
    workers: int | None = Field(default=None, ge=1, le=4096)
    min_workers: int | None = Field(default=None, ge=1, le=4096)
    offload: Offload = Field(default_factory=Offload)
    gradient_checkpointing: bool = False
    teacher: Literal["whole", "sharded", "offloaded"] = "whole"
    save_every_steps: int = Field(default=200, ge=1)
    max_failures: int = Field(default=3, ge=0, le=1000, description="Lost workers before the stage gives up.")

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.offload.parameters and self.zero_stage != 3:
            raise ValueError(
                f"offload.parameters needs zero_stage 3, got {self.zero_stage}: the others hold every "
                f"parameter on every worker"
            )
        return self


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
    recovery: TrainingResources = Field(default_factory=TrainingResources)

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

    @property
    def training_workers(self) -> int:
        """Workers of recovery training."""
        return self.recovery.workers or self.workers


class JobTemplate(Frozen):
    """A JobRequest whose model may still be open."""

    spec: SpecTemplate
    resources: Resources = Field(default_factory=Resources)
    priority: int = Field(default=0, ge=-100, le=100, description="Higher starts first.")
    labels: dict[Label, Label] = Field(default_factory=dict, max_length=32)
    tracking: Tracking = Field(default_factory=Tracking)
    name: str | None = Field(default=None, min_length=1, max_length=100)


class JobRequest(JobTemplate):
    """Body of POST /jobs and POST /plans."""

    spec: PruneSpec


def check_against_model(spec: PruneSpec, *, model_type: str, blocks: int, max_positions: int | None) -> None:
    """Checks that need the model's config. Raises InvalidRequest subclasses that name the field."""
    from pipeline.architecture import row_for
    from pipeline.errors import SequenceTooLong

    row_for(model_type)
    if spec.prune is not None:
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
    if spec.recovery is not None:
        lengths.append((spec.recovery.text.sequence_length, "spec.recovery.text"))
    for length, field in lengths:
        if length > max_positions:
            raise SequenceTooLong(
                f"sequence_length {length} is longer than the model's {max_positions} positions; "
                f"use {max_positions} or less",
                f"{field}.sequence_length",
            )
