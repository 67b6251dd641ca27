"""Ports on loopback that servers of tests may listen on."""

import contextlib
import secrets
import socket

HOST = "127.0.0.1"


def free_port() -> int:
    """A port that nobody listens on, and that no outgoing connection will take."""
    return free_ports(1)[0]


def free_ports(count: int, *, offset: int = 0) -> list[int]:
    """Ports that nobody listens on, each with its twin `offset` above it free as well."""
    found: list[int] = []
    while len(found) < count:
        port = 10000 + secrets.randbelow(10000)  # with its twin, below the range for outgoing connections
        if port not in found and _is_free(port) and _is_free(port + offset):
            found.append(port)
    return found


def _is_free(port: int) -> bool:
    with socket.socket() as candidate, contextlib.suppress(OSError):
        candidate.bind((HOST, port))
        return True
    return False
