"""The share of the cluster that a job may use. It changes where and how fast a job runs, never its bits."""

import re
from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from pipeline.canonical import Frozen
from pipeline.spec.field_error import refusal

UNITS = {"KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}


class Offload(Frozen):
    """The parts of training that ZeRO keeps in CPU memory instead of GPU memory. Parameters need stage 3."""

    optimizer: bool = False
    parameters: bool = False


class TrainingResources(Frozen):
    """The split of training (recovery, and the learning of masks) over workers, in DeepSpeed's terms. It
    changes speed and memory only.

    `workers`: by default, all workers of the job. `min_workers`: training continues with that many when nodes
    are lost; by default it waits for all. micro_batch_size · gradient_accumulation_steps · workers is the
    global_batch_size of the spec; by default, gradient_accumulation_steps follows from it. `teacher`: in
    recovery, the teacher is `whole` on every worker, `sharded` over them (ZeRO 3), or sharded and `offloaded`
    to the CPU's memory. `save_every_steps`: steps between checkpoints, and so the most that are repeated when
    a worker is lost.
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
            raise refusal(
                f"offload.parameters needs zero_stage 3, got {self.zero_stage}: the other stages hold every "
                f"parameter on every worker; use zero_stage 3, or offload.optimizer alone",
                "offload",
                "parameters",
            )
        return self


class Resources(Frozen):
    """The CPUs, GPUs and memory that each worker of a stage reserves on the Ray cluster.

    `memory_per_worker`: on CPUs, activations take up to half of the memory that an idle process leaves free;
    the rest of them lie on the local disk. Threads follow `cpus_per_worker`: on one kind of hardware, equal
    thread counts give equal bits, however many workers share the samples.
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

    @model_validator(mode="after")
    def _enough_workers(self) -> Self:
        least = self.recovery.min_workers
        if least is not None and least > self.training_workers:
            raise refusal(
                f"got {least}, and training has {self.training_workers} workers; use at most that many, or "
                f"raise {'recovery.' if self.recovery.workers else ''}workers",
                "recovery",
                "min_workers",
            )
        return self

    @property
    def memory_bytes(self) -> int:
        """memory_per_worker in bytes."""
        return int(self.memory_per_worker[:-3]) * UNITS[self.memory_per_worker[-3:]]

    @property
    def training_workers(self) -> int:
        """The number of workers that train."""
        return self.recovery.workers or self.workers
