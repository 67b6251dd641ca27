"""Reporters send a driver's events to the API, or print them as JSON lines."""

import logging
import queue
import sys
import threading
import time
from datetime import UTC, datetime
from typing import Protocol

import httpx

from pipeline.job.events import DriverEvent, EventBody
from pipeline.job.ledger import WorkOrder

log = logging.getLogger(__name__)
BATCH = 100
MAX_PAUSE_SECONDS = 5.0
HEARTBEAT_SECONDS = 60.0


class Reporter(Protocol):
    """Reports events in order. It never raises and never blocks the work."""

    def emit(self, body: EventBody) -> None:
        """Report one event."""
        ...

    def close(self, deadline_seconds: float) -> None:
        """Deliver the remaining events, for at most `deadline_seconds`."""
        ...

    @property
    def revoked(self) -> bool:
        """Tells whether the API has ended this attempt, so that its driver has to stop."""
        ...


class LinesReporter:
    """Writes each DriverEvent as a line of JSON to standard output."""

    revoked = False

    def __init__(self) -> None:
        self._sequence = 0
        self._lock = threading.Lock()

    def emit(self, body: EventBody) -> None:
        """Write one line at once."""
        with self._lock:
            self._sequence += 1
            event = DriverEvent(sequence=self._sequence, at=datetime.now(UTC), body=body)
            sys.stdout.write(event.model_dump_json() + "\n")
            sys.stdout.flush()

    def close(self, deadline_seconds: float) -> None:
        """Nothing remains to deliver: lines are written at once."""


class ApiReporter:
    """Posts events to the API, oldest first, from a thread of its own, and tries again while the API is
    unavailable. It begins with a heartbeat, a post without events, and sends another after each `heartbeat`
    seconds without events."""

    def __init__(self, order: WorkOrder, *, heartbeat: float = HEARTBEAT_SECONDS) -> None:
        assert order.report_to is not None
        self._url = f"{order.report_to.rstrip('/')}/internal/attempts/{order.job}/{order.attempt}/events"
        headers = {"Authorization": f"Bearer {order.token}"}
        self._client = httpx.Client(headers=headers, timeout=10, trust_env=False)
        self._queue: queue.Queue[DriverEvent | None] = queue.Queue()
        self._sequence = 0
        self._heartbeat = heartbeat
        self._lock = threading.Lock()
        self._give_up_at = float("inf")
        self._revoked = threading.Event()
        self._thread = threading.Thread(target=self._deliver, name="reporter", daemon=True)
        self._thread.start()

    @property
    def revoked(self) -> bool:
        """Tells whether the API has refused the attempt's token."""
        return self._revoked.is_set()

    def emit(self, body: EventBody) -> None:
        """Queue one event."""
        with self._lock:
            self._sequence += 1
            self._queue.put(DriverEvent(sequence=self._sequence, at=datetime.now(UTC), body=body))

    def close(self, deadline_seconds: float) -> None:
        """Deliver the queued events. If the API stays unavailable, it finds the result in storage later."""
        self._give_up_at = time.monotonic() + deadline_seconds
        self._queue.put(None)
        self._thread.join(deadline_seconds + 15)
        self._client.close()

    def _deliver(self) -> None:
        self._post_until_accepted([])
        ended = False
        while not ended:
            batch, ended = self._next_batch()
            if (batch or not ended) and not self.revoked:
                self._post_until_accepted(batch)

    def _next_batch(self) -> tuple[list[DriverEvent], bool]:
        """The next events, and whether they are the last; none if there was no event for a while."""
        batch = []
        try:
            event = self._queue.get(timeout=self._heartbeat)
        except queue.Empty:
            return [], False
        while event is not None:
            batch.append(event)
            if len(batch) == BATCH or self._queue.empty():
                return batch, False
            event = self._queue.get()
        return batch, True

    def _post_until_accepted(self, batch: list[DriverEvent]) -> None:
        body = {"events": [event.model_dump(mode="json") for event in batch]}
        pause = 0.2
        while True:
            try:
                answer = self._client.post(self._url, json=body)
            except httpx.HTTPError as error:
                why = type(error).__name__
            else:
                if answer.is_success:
                    return
                if answer.status_code in (401, 403, 404, 410):
                    log.error("the API refuses this attempt's events: %s", answer.text[:300])
                    self._revoked.set()
                    return
                why = f"HTTP {answer.status_code} {answer.text[:300]}"
            if time.monotonic() > self._give_up_at:
                log.error("events not delivered in time: %s", why)
                return
            log.warning("events not delivered yet: %s", why)
            time.sleep(pause)
            pause = min(pause * 2, MAX_PAUSE_SECONDS)
