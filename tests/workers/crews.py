"""Groups of processes that work together and find each other at a port."""

import multiprocessing
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from torch.multiprocessing import ProcessExitedException, start_processes
from torch.multiprocessing.spawn import ProcessException

from tests.ports import free_port


def together(work: Callable[..., None], *args: Any, workers: int) -> None:
    """Call `work(rank, port, *args)` in `workers` processes, and wait for them.

    They are forked from a process that has imported DeepSpeed and the other libraries, because that takes
    seconds. When one is killed, ProcessException is raised: see `losing_a_worker`.
    """
    multiprocessing.set_forkserver_preload(["tests.workers.crew_imports"])
    start_processes(work, (free_port(), *args), nprocs=workers, start_method="forkserver")


@contextmanager
def losing_a_worker() -> Iterator[None]:
    """Expect that a worker is killed. torch tells of the process that is first seen to have ended, which may
    be another one, whose connection to the killed one broke."""
    with pytest.raises(ProcessException) as lost:
        yield
    assert isinstance(lost.value, ProcessExitedException) or "gloo" in str(lost.value)
