"""Groups of processes that work together and find each other at a port."""

import multiprocessing
from collections.abc import Callable
from typing import Any

from torch.multiprocessing import start_processes

from tests.ports import free_port


def together(work: Callable[..., None], *args: Any, workers: int) -> None:
    """Call `work(rank, port, *args)` in `workers` processes, and wait for them.

    They are forked from a process that has imported DeepSpeed and the other libraries, because that takes
    seconds. Raises ProcessExitedException when one is killed.
    """
    multiprocessing.set_forkserver_preload(["tests.workers.crew_imports"])
    start_processes(work, (free_port(), *args), nprocs=workers, start_method="forkserver")
