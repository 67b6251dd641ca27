"""The share of the cluster that a job may use. It changes where and how fast a job runs, never its bits, but
for one: a spec without `compute_dtype` computes in the checkpoint's own type on GPUs (compute_dtype.py)."""

import math
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from pipeline.canonical import Frozen
from pipeline.request.parts import (
    AcceleratorType,
    Cpus,
    Gpus,
    Memory,
    Part,
    PartResources,
    Workers,
    WorkerShare,
    bytes_of,
)
from pipeline.spec.field_error import refusal
from pipeline.spec.texts import is_unset

CPUS_PER_GPU = 4  # to read, check and store what one GPU computes


class Offload(Frozen):
    """The parts of training that ZeRO keeps in CPU memory instead of GPU memory. Parameters need stage 3."""

    optimizer: bool = False
    parameters: bool = False


class TrainingResources(PartResources):
    """The workers of training (recovery, and the learning of masks), and the split of the work among them, in
    DeepSpeed's terms. It changes speed and memory only.

    Each worker drives one GPU, or none. `one_node`: all workers are on one node, whose GPUs are connected
    best; by default they fill one node after the other. `min_workers`: training continues with that many when
    nodes are lost; by default it waits for all. micro_batch_size · gradient_accumulation_steps · workers is
    the global_batch_size of the spec; by default, gradient_accumulation_steps follows from it.
    `micro_batch_size: auto` takes as many sequences as the memory holds, by the account of memory that
    POST /plans shows. `compile`: the blocks are compiled by torch.compile, which takes minutes at the first
    steps and makes the others faster; ZeRO stage 3 cannot have it. `teacher`: in recovery, the teacher is
    `whole` on every worker, `sharded` over them (ZeRO 3), or sharded and `offloaded` to the CPU's memory.
    `save_every_steps`: steps between checkpoints, and so the most that are repeated when a worker is lost.
    """

    zero_stage: Literal[1, 2, 3] = 1
    micro_batch_size: Annotated[int, Field(ge=1)] | Literal["auto"] = 1
    gradient_accumulation_steps: int | None = Field(default=None, ge=1)
    min_workers: int | None = Field(default=None, ge=1, le=4096)
    one_node: bool = Field(default=False, exclude_if=lambda asked: not asked)
    offload: Offload = Field(default_factory=Offload)
    gradient_checkpointing: bool = False
    compile: bool = Field(default=False, exclude_if=lambda asked: not asked)
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
        if self.compile and self.zero_stage == 3:
            raise refusal(
                "compile needs zero_stage 1 or 2, got 3: that stage fetches each weight when a block asks "
                "for it, which cannot be compiled; use another stage, or leave compile out",
                "compile",
            )
        if self.micro_batch_size == "auto" and self.gradient_accumulation_steps is not None:
            raise refusal(
                f"got {self.gradient_accumulation_steps}, and micro_batch_size is auto, from which it "
                f"follows; leave it out, or give micro_batch_size a number",
                "gradient_accumulation_steps",
            )
        return self

    @property
    def micro_batch(self) -> int:
        """micro_batch_size, once `auto` has been replaced (pipeline/planning/micro_batch.py)."""
        assert self.micro_batch_size != "auto"
        return self.micro_batch_size


def _says_nothing(part: PartResources) -> bool:
    return part == PartResources()


class Resources(Frozen):
    """The CPUs, GPUs and memory that each worker of a stage reserves on the Ray cluster.

    `pruning` has the stages that walk the model block by block, perplexities among them. `recovery` has those
    that train. `evaluation` has those that need the whole model in one worker: tasks, continuations of
    prompts, exports, and the check of what is published. The fields of a part count before those of
    `resources` itself.

    `cpus_per_worker`: by default 1, or 4 for each GPU. Threads follow it: on one kind of hardware, equal
    thread counts give equal bits, however many workers share the samples. `memory_per_worker`: activations
    take up to half of the memory that an idle process leaves free; the rest of them lies on the local disk.
    `memory_per_gpu`: the memory of each GPU, which a worker cannot exceed; work that cannot fit it is refused
    before a GPU is taken. Activations take up to half of it before they take memory of the machine; by
    default, half of what is free there. `placement_timeout_seconds`: a stage waits so long for its workers,
    which may need nodes that the cluster has to start first.
    """

    workers: Workers = 1
    cpus_per_worker: Cpus = 1
    gpus_per_worker: Gpus = 0
    memory_per_worker: Memory = Field(default="2GiB", examples=["64GiB"])
    memory_per_gpu: Memory | None = Field(default=None, examples=["80GiB"], exclude_if=is_unset)
    accelerator_type: AcceleratorType | None = Field(default=None, exclude_if=lambda kind: kind is None)
    placement_timeout_seconds: int = Field(default=1800, ge=1, le=604_800)
    pruning: PartResources = Field(default=PartResources(), exclude_if=_says_nothing)
    recovery: TrainingResources = Field(default_factory=TrainingResources)
    evaluation: PartResources = Field(default=PartResources(), exclude_if=_says_nothing)

    @model_validator(mode="before")
    @classmethod
    def _cpus_of_gpus(cls, given: object) -> object:
        """Fill in the CPUs of workers with GPUs where they are left out. Stored requests name them."""
        if not isinstance(given, dict) or "cpus_per_worker" in given:
            return given
        gpus = given.get("gpus_per_worker")
        if isinstance(gpus, (int, float)) and 0 < gpus <= 64:
            return {**given, "cpus_per_worker": math.ceil(CPUS_PER_GPU * gpus)}
        return given

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

    def of(self, part: Part) -> WorkerShare:
        """The workers of a part of the job."""
        own: PartResources = getattr(self, part)
        values = {name: getattr(own, name) for name in PartResources.model_fields}
        chosen = {name: value for name, value in values.items() if value is not None}
        whole = {name: getattr(self, name) for name in PartResources.model_fields}
        return WorkerShare(
            **{**whole, **chosen},
            part=part,
            placement_timeout_seconds=self.placement_timeout_seconds,
            set_here=frozenset(chosen),
        )

    @model_validator(mode="after")
    def _known_memory(self) -> Self:
        share = self.of("recovery")
        if self.recovery.micro_batch_size == "auto" and share.gpus_per_worker and not share.memory_per_gpu:
            raise refusal(
                "micro_batch_size auto needs to know the memory of each GPU: set memory_per_gpu, or give "
                "micro_batch_size a number",
                "recovery",
                "micro_batch_size",
            )
        return self

    @property
    def memory_bytes(self) -> int:
        """memory_per_worker in bytes."""
        return bytes_of(self.memory_per_worker)

    @property
    def training_workers(self) -> int:
        """The number of workers that train."""
        return self.recovery.workers or self.workers
