"""The environment of a job, which a reader needs to compare timings and to get the same bits again."""

from pipeline.canonical import Frozen


class Environment(Frozen):
    """The facts of a worker. `versions`: package → version, `python` among them. `threads`: per worker.

    `cores` and `memory_bytes` are those of the whole machine; `gpus` lists a name per device.
    """

    versions: dict[str, str]
    platform: str
    cpu_model: str
    cores: int
    threads: int
    memory_bytes: int | None = None
    gpus: tuple[str, ...] = ()


class Code(Frozen):
    """The code that ran. `sha256`: over the paths and digests of all files of the packages; `commit`: of the
    checkout that they lie in, if it is one. Files that were changed since show in `sha256` alone."""

    version: str
    sha256: str
    commit: str | None = None
