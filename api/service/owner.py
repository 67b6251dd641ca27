"""Who holds a lease: one API process, by host, pid and start time."""

import os
import socket

from api.embedded import start_time


def this_process() -> str:
    """Name of this process as the owner of leases; at most 100 characters."""
    return f"{_host()}/{os.getpid()}@{start_time(os.getpid())}"


def is_dead(owner: str) -> bool:
    """Whether an owner was a process of this machine and is no more; of other machines we know nothing."""
    host, _, process = owner.rpartition("/")
    pid, _, started = process.partition("@")
    return host == _host() and pid.isdigit() and start_time(int(pid)) != started


def _host() -> str:
    return socket.gethostname()[:60]
