"""What each worker of a part of a job reserves: pruning, recovery and evaluation may differ."""

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from pipeline.canonical import Frozen

Part = Literal["pruning", "recovery", "evaluation"]
PARTS: tuple[Part, ...] = ("pruning", "recovery", "evaluation")
UNITS = {"KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}


def _parses(value: str) -> str:
    if not re.fullmatch(r"[1-9]\d*(KiB|MiB|GiB|TiB)", value):
        raise ValueError(f"got {value!r}; write a whole number with KiB, MiB, GiB or TiB, such as 64GiB")
    return value


def _whole_or_fraction(value: float) -> float:
    if value > 1 and value != int(value):
        raise ValueError(f"got {value}; a worker takes a fraction of one GPU, or a whole number of them")
    return value


Workers = Annotated[int, Field(ge=1, le=4096)]
Cpus = Annotated[int, Field(ge=1, le=1024)]
Gpus = Annotated[float, Field(ge=0, le=64), AfterValidator(_whole_or_fraction)]
Memory = Annotated[str, AfterValidator(_parses)]
AcceleratorType = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$", examples=["H100"])]


def _left_out(value: object) -> bool:
    return value is None


class PartResources(Frozen):
    """The workers of one part of a job. What is left out is as the fields of `resources` itself say.

    `memory_per_gpu`: the memory of each GPU; work that cannot fit it is refused before a GPU is taken.
    `accelerator_type`: the name by which Ray knows the GPU, such as A100-80G or H100.
    """

    workers: Workers | None = Field(default=None, exclude_if=_left_out)
    cpus_per_worker: Cpus | None = Field(default=None, exclude_if=_left_out)
    gpus_per_worker: Gpus | None = Field(default=None, exclude_if=_left_out)
    memory_per_worker: Memory | None = Field(default=None, exclude_if=_left_out)
    memory_per_gpu: Memory | None = Field(default=None, exclude_if=_left_out)
    accelerator_type: AcceleratorType | None = Field(default=None, exclude_if=_left_out)


class WorkerShare(Frozen):
    """The workers of one part of a job, with nothing left out. `set_here`: the fields that the part itself
    sets."""

    part: Part
    workers: int
    cpus_per_worker: int
    gpus_per_worker: float
    memory_per_worker: str
    memory_per_gpu: str | None
    accelerator_type: str | None
    placement_timeout_seconds: int
    set_here: frozenset[str] = frozenset()

    @property
    def memory_bytes(self) -> int:
        """memory_per_worker in bytes."""
        return bytes_of(self.memory_per_worker)

    @property
    def gpu_memory_bytes(self) -> int | None:
        """memory_per_gpu in bytes, if it is declared."""
        return None if self.memory_per_gpu is None else bytes_of(self.memory_per_gpu)

    @property
    def size(self) -> tuple[object, ...]:
        """What decides where these workers may run; parts of equal size share their places."""
        return (
            self.workers,
            self.cpus_per_worker,
            self.gpus_per_worker,
            self.memory_per_worker,
            self.accelerator_type,
        )

    @property
    def bundle(self) -> dict[str, float]:
        """The resources of one worker, by Ray's names."""
        bundle: dict[str, float] = {"CPU": self.cpus_per_worker, "memory": self.memory_bytes}
        if self.gpus_per_worker:
            bundle["GPU"] = self.gpus_per_worker
        if self.accelerator_type is not None:
            bundle[f"accelerator_type:{self.accelerator_type}"] = 0.001  # as Ray writes it
        return bundle

    def field(self, name: str) -> str:
        """The path of the field that sets `name` for this part."""
        return f"resources.{self.part}.{name}" if name in self.set_here else f"resources.{name}"

    def __str__(self) -> str:
        kind = f" {self.accelerator_type}" if self.accelerator_type is not None else ""
        return (
            f"{self.workers} workers with {self.cpus_per_worker} CPUs, {self.gpus_per_worker:g}{kind} GPUs "
            f"and {self.memory_per_worker} each"
        )


def bytes_of(memory: str) -> int:
    """A size such as 64GiB in bytes."""
    return int(memory[:-3]) * UNITS[memory[-3:]]
