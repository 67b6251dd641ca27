"""Where a job ran: what a reader needs to judge timings and to get the same bits again."""

from pipeline.canonical import Frozen


class Environment(Frozen):
    """Filled by a worker. `versions`: package → version, `python` among them. `threads`: per worker.

    `cores` and `memory_bytes` are the machine's own; `gpus` lists a name per device.
    """

    versions: dict[str, str]
    platform: str
    cpu_model: str
    cores: int
    threads: int
    memory_bytes: int | None = None
    gpus: tuple[str, ...] = ()
