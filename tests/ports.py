"""Ports on loopback that servers of tests may listen on."""

import contextlib
import fcntl
import os
import secrets
import socket
import tempfile
from functools import cache
from pathlib import Path
from typing import IO

HOST = "127.0.0.1"
_given: set[int] = set()


def free_port() -> int:
    """A port that nobody listens on, that no outgoing connection will take, and that is given out once."""
    return free_ports(1)[0]


def free_ports(count: int, *, offset: int = 0) -> list[int]:
    """Ports that nobody listens on, each with its twin `offset` above it free as well."""
    found: list[int] = []
    while len(found) < count:
        port = 10000 + secrets.randbelow(10000)  # with its twin, below the range for outgoing connections
        wanted = {port, port + offset}
        if all(_is_free(one) for one in wanted) and all(_take(one) for one in wanted):
            found.append(port)
    return found


def _take(port: int) -> bool:
    """Tells whether nobody has been given this port, in this process or another one. Its server may not
    listen yet, or may be between two starts."""
    if port in _given:
        return False
    locks = _locks()
    try:
        fcntl.lockf(locks, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, port)  # byte `port`, until this process ends
    except OSError:
        return False
    _given.add(port)
    return True


@cache
def _locks() -> IO[bytes]:
    """The file of all test processes of this user."""
    return (Path(tempfile.gettempdir()) / f"secateur-test-ports-{os.getuid()}").open("ab")


def _is_free(port: int) -> bool:
    with socket.socket() as candidate, contextlib.suppress(OSError):
        candidate.bind((HOST, port))
        return True
    return False
