"""The owner of a lease is one API process, named by host, pid and start time."""

import os
import socket

from api.embedded import start_time


def this_process() -> str:
    """The name of this process as the owner of leases, of at most 100 characters."""
    return f"{_host()}/{os.getpid()}@{start_time(os.getpid())}"


def is_dead(owner: str) -> bool:
    """Tells whether an owner was a process of this machine and has ended; False for other machines."""
    host, _, process = owner.rpartition("/")
    pid, _, started = process.partition("@")
    return host == _host() and pid.isdigit() and start_time(int(pid)) != started


def _host() -> str:
    return socket.gethostname()[:60]
