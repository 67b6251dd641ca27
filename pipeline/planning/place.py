"""Where the work of an estimate is done, and what an estimate adds up."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from pipeline.planning.machine import Machine

IDLE = 430 * 2**20  # bytes of a process that has imported torch and transformers; measured
IDLE_WITH_GPU = 1200 * 2**20  # the same with CUDA's libraries; assumed


@dataclass(frozen=True)
class Place:
    """Equal workers. `width`: bytes of a number that is computed with; `stored`: bytes of a weight in the
    checkpoint."""

    machine: Machine
    workers: int = 1
    width: int = 4
    stored: int = 2

    @property
    def idle(self) -> int:
        """The bytes of the host's memory that a worker takes before there is any work."""
        return IDLE if self.machine.memory is None else IDLE_WITH_GPU

    def share(self, count: int) -> int:
        """The largest part that one worker has of `count` things."""
        return -(-count // self.workers)

    def spread(self, costs: Iterable[float]) -> float:
        """The least seconds in which the workers do pieces of work that are not divided further."""
        pieces = list(costs)
        return max(max(pieces, default=0.0), sum(pieces) / self.workers)

    def computed(self, flop: float, *, moved: float = 0.0, kernels: float = 0) -> float:
        """The seconds of forward passes that move `moved` bytes of memory and start `kernels` kernels: the
        slowest of the three decides."""
        machine = self.machine
        return max(flop / machine.blocks(self.width), moved / machine.bandwidth, kernels * machine.launch)


@dataclass(frozen=True)
class Cost:
    """The cost of a stage. `parts`: seconds by kind of work; they may overlap, so that they can exceed
    `seconds`. `gpu` and `host`: the highest bytes of one worker, where they can be told; `gpu` is 0 without a
    GPU."""

    seconds: float | None = None
    parts: dict[str, float] = field(default_factory=dict)
    gpu: int | None = None
    host: int | None = None


@dataclass(frozen=True)
class Samples:
    """Token sequences of equal length."""

    count: int
    length: int

    @property
    def tokens(self) -> int:
        """The number of tokens of all."""
        return self.count * self.length


NONE = Samples(0, 0)
