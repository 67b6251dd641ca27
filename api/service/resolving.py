"""Pins the sources of requests: a few at a time, and each for a limited time.

A bucket or a hub that answers slowly would otherwise take one thread of the service after the other, until
none is left for anybody else.
"""

from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as Late
from contextvars import copy_context
from dataclasses import dataclass, field
from threading import BoundedSemaphore
from typing import Protocol

from api.errors import ApiError
from pipeline.errors import SourceUnreachable
from pipeline.request.prune_spec import PruneSpec
from pipeline.sources.pins import Pins

WAIT_SECONDS = 2.0  # for a free place


class Resolve(Protocol):
    """Pins the sources of a spec. Raises InvalidRequest."""

    def __call__(self, spec: PruneSpec, /) -> Pins: ...


@dataclass
class LimitedResolver:
    """Resolves at most `at_once` specs at a time, and gives each `seconds`. What is late keeps its place
    until it ends, so that slow sources never take more than these."""

    resolve: Resolve
    at_once: int
    seconds: float
    _free: BoundedSemaphore = field(init=False)
    _pool: ThreadPoolExecutor = field(init=False)

    def __post_init__(self) -> None:
        self._free = BoundedSemaphore(self.at_once)
        self._pool = ThreadPoolExecutor(self.at_once, thread_name_prefix="sources")

    def __call__(self, spec: PruneSpec, /) -> Pins:
        """Raises ApiError 429 if no place becomes free, and SourceUnreachable if the sources are late."""
        if not self._free.acquire(timeout=WAIT_SECONDS):
            raise ApiError(
                429,
                "too_many_submissions",
                f"the sources of {self.at_once} other requests are read now (SECATEUR_RESOLVE_AT_ONCE); "
                f"send this one again",
            )
        found = self._pool.submit(copy_context().run, self._pins, spec)  # logs name the request
        try:
            return found.result(self.seconds)
        except Late:
            raise SourceUnreachable(
                f"the sources did not answer within {self.seconds:g} s (SECATEUR_RESOLVE_SECONDS); try again"
            ) from None

    def close(self) -> None:
        """Take no more work. What is late is not waited for."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _pins(self, spec: PruneSpec) -> Pins:
        try:
            return self.resolve(spec)
        finally:
            self._free.release()
