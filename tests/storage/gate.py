"""A gate in front of a real S3 server, which holds a job at a place that a test chooses.

A test that kills a process "in the middle" must not race with the work: a fast job would be over before the
kill. Here the work waits, because storage does not answer one of its requests, until the test says so.
"""

import contextlib
import re
import threading
from collections.abc import Iterator

from api.client.client import SecateurClient
from pipeline.job.state import TERMINAL
from tests.servers import S3Server
from tests.storage.faulty import Fault, Request, faulty_network

# Whoever still lives asks again; a request of a dead process is lost, as in a network.
ASK_AGAIN = Fault(status=503)
LOOK_SECONDS = 0.2


class Gate:
    """What a proxy does with each request, which is written `PUT /bucket/key`. It is open at first.

    `server` is the S3 server as it is reached through the gate."""

    def __init__(self, server: S3Server) -> None:
        self.server = server
        self._changed = threading.Condition()
        self._turn = 0  # counts how often the gate was closed or opened
        self._waiting = 0  # requests that are held since then
        self._held: re.Pattern[str] | None = None
        self._after: re.Pattern[str] | None = None

    def close(self, held: str, *, after: str | None = None) -> None:
        """From now on, hold requests that match `held`; with `after`, only once a request that matches it has
        come. Other requests pass, and so do those that were held before."""
        self._turn_to(re.compile(held), None if after is None else re.compile(after))

    def open(self) -> None:
        """Let all requests pass."""
        self._turn_to(None, None)

    @contextlib.contextmanager
    def closed(self, held: str, *, after: str | None = None) -> Iterator[None]:
        """Closed as by `close` at first, and open at the end, even when the test fails."""
        self.close(held, after=after)
        try:
            yield
        finally:
            self.open()

    def wait(self, client: SecateurClient, job: str) -> None:
        """Return when a request is held, which must happen before the job ends."""
        while not self.holds():
            seen = client.job(job)
            assert seen.status not in TERMINAL, (seen.status, seen.error, "it was never held")

    def holds(self, seconds: float = LOOK_SECONDS) -> bool:
        """Tells whether a request is held, at the latest after so many seconds."""
        with self._changed:
            return self._changed.wait_for(lambda: self._waiting > 0, seconds)

    def __call__(self, request: Request) -> Fault | None:
        """The proxy's plan: None lets a request pass."""
        asked = f"{request.method} {request.path}"
        with self._changed:
            if self._after is not None and self._after.search(asked):
                self._after = None
            if self._held is None or self._after is not None or not self._held.search(asked):
                return None
            turn = self._turn
            self._waiting += 1
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._turn != turn)
            return ASK_AGAIN

    def _turn_to(self, held: re.Pattern[str] | None, after: re.Pattern[str] | None) -> None:
        with self._changed:
            self._turn += 1
            self._waiting = 0
            self._held, self._after = held, after
            self._changed.notify_all()


@contextlib.contextmanager
def gate_before(server: S3Server) -> Iterator[Gate]:
    """A gate on a port of its own."""
    with faulty_network(server) as network:
        gate = Gate(network.server)
        network.plan = gate
        try:
            yield gate
        finally:
            gate.open()  # the proxy waits for no thread, but its client might
