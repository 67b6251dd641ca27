"""What a stage is expected to cost, before it runs."""

from pipeline.canonical import Frozen


class Estimate(Frozen):
    """The expected cost of one node, by the model of pipeline/planning. It is never part of a digest.

    `device`: the machine whose rates were taken for each of `workers`. `seconds`: None where they depend on
    what is not read before the job runs. `parts`: seconds by kind of work, which may overlap. `memory_bytes`:
    the peak of one worker's process; `gpu_memory_bytes`: the least peak on one GPU, None without GPUs.
    """

    node: str
    device: str
    workers: int
    seconds: float | None
    parts: dict[str, float]
    memory_bytes: int | None
    gpu_memory_bytes: int | None
