"""Curves are sent to experiment trackers: MLflow, Weights & Biases.

Each tracker has a thread of its own, so that training never waits for one, and never fails because of one.
"""

import os
import re
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

from pipeline.artifacts.curve import StepRecord, Validation
from pipeline.request.tracking import Tracking

MAX_WAITING = 5000  # points; when a server stays away, the oldest are dropped
BATCH = 100
PAUSE_SECONDS = 30.0
FINISH_SECONDS = 30.0
SECRETS = ("MLFLOW_TRACKING_TOKEN", "MLFLOW_TRACKING_PASSWORD", "WANDB_API_KEY")
STEP_FIGURES = (
    "loss",
    "language_modelling_loss",
    "learning_rate",
    "gradient_norm",
    "tokens_per_second",
    "zeros",
    "memory_bytes",
    "gpu_memory_bytes",
    "loss_scale",
)

Level = Literal["info", "warning"]
Status = Literal["finished", "failed"]
Tell = Callable[[str, Level], None]


@dataclass(frozen=True)
class Point:
    """Figures after `step` steps. `at` is in unix seconds."""

    step: int
    at: float
    values: Mapping[str, float]


class Unavailable(Exception):
    """This tracker cannot be used, and trying again would not help."""


class Tracker(Protocol):
    """Keeps one run in one tracker. Methods are called from one thread, may block, and may raise anything."""

    name: str

    def open(self) -> str:
        """Begin the run or continue it. Returns a sentence that says where it is."""
        ...

    def send(self, points: list[Point]) -> None:
        """Add points to the run."""
        ...

    def close(self, status: Status) -> None:
        """End the run with the stage. Without an `open` before, nothing happens."""
        ...


class Trackers:
    """The trackers that a job asks for in `tracking`. The same job and node continue the same runs.

    `params`: the parameters that runs are compared by. `tell` receives notes: where the runs are, and once
    for each tracker that it cannot be reached. It is called from other threads.
    """

    def __init__(
        self,
        tracking: Tracking,
        *,
        job: str,
        node: str,
        name: str | None,
        params: Mapping[str, str | int | float],
        tell: Tell,
    ) -> None:
        title = f"{name or job} {node}"
        trackers: list[Tracker] = []
        if tracking.mlflow is not None:
            from workers.training.tracker_mlflow import MlflowTracker

            trackers.append(MlflowTracker(tracking.mlflow, job=job, node=node, title=title, params=params))
        if tracking.wandb is not None:
            from workers.training.tracker_wandb import WandbTracker

            trackers.append(WandbTracker(tracking.wandb, job=job, node=node, title=title, params=params))
        self._lines = [_Line(tracker, tell) for tracker in trackers]

    def step(self, record: StepRecord) -> None:
        """Send the figures of an optimizer step."""
        figures = {name: getattr(record, name) for name in STEP_FIGURES}
        values = {f"train/{name}": float(value) for name, value in figures.items() if value is not None}
        self._put(record.step, values)

    def validated(self, validation: Validation) -> None:
        """Send the figures of a validation."""
        self._put(
            validation.step,
            {"validation/loss": validation.loss, "validation/perplexity": validation.perplexity},
        )

    def finish(self, status: Status) -> None:
        """Send the remaining points, for FINISH_SECONDS at most."""
        for line in self._lines:
            line.end(status)
        deadline = time.monotonic() + FINISH_SECONDS
        for line in self._lines:
            line.join(deadline)

    def _put(self, step: int, values: Mapping[str, float]) -> None:
        for line in self._lines:
            line.put(Point(step, time.time(), values))


class _Line:
    """The points that wait for one tracker, and the thread that sends them."""

    def __init__(self, tracker: Tracker, tell: Tell) -> None:
        self._tracker = tracker
        self._tell = tell
        self._changed = threading.Condition()
        self._waiting: deque[Point] = deque()
        self._lost = 0
        self._status: Status | None = None
        self._warned = False
        self._thread = threading.Thread(target=self._work, name=f"tracker {tracker.name}", daemon=True)
        self._thread.start()

    def put(self, point: Point) -> None:
        """Add a point, without waiting."""
        with self._changed:
            if len(self._waiting) == MAX_WAITING:
                self._waiting.popleft()
                self._lost += 1
            self._waiting.append(point)
            self._changed.notify()

    def end(self, status: Status) -> None:
        """Announce that no more points will come."""
        with self._changed:
            self._status = status
            self._changed.notify()

    def join(self, deadline: float) -> None:
        """Wait until all points are sent or given up. `deadline` is on the monotonic clock."""
        self._thread.join(max(deadline - time.monotonic(), 0))
        if self._thread.is_alive():
            self._warn(f"{self._tracker.name} took too long: the last points may be missing there")

    def _work(self) -> None:
        opened = False
        points: list[Point] = []
        while True:
            ended = self._take(points)
            try:
                if not opened:
                    self._tell(self._tracker.open(), "info")
                    opened = True
                if points:
                    self._tracker.send(points)
                    points.clear()
                if ended and not self._waiting:
                    break
            except Unavailable as error:
                self._warn(f"curves are not sent to {self._tracker.name}: {error}")
                return
            except Exception as error:  # noqa: BLE001 - whatever a tracker raises, training continues
                why = _words(error)
                self._warn(f"{self._tracker.name} took no curves; it will be tried again: {why}")
                if ended:
                    break
                self._pause()
        self._close(unsent=len(points))

    def _take(self, points: list[Point]) -> Status | None:
        """Move waiting points to `points` until they are a batch. Returns the status if no more will come."""
        with self._changed:
            self._changed.wait_for(lambda: points or self._waiting or self._status)
            while self._waiting and len(points) < BATCH:
                points.append(self._waiting.popleft())
            return self._status

    def _pause(self) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._status, PAUSE_SECONDS)

    def _close(self, *, unsent: int) -> None:
        assert self._status is not None
        try:
            self._tracker.close(self._status)
        except Exception as error:  # noqa: BLE001 - as above
            self._warn(f"{self._tracker.name} did not end the run: {_words(error)}")
        if lost := self._lost + unsent + len(self._waiting):
            self._tell(f"{self._tracker.name} has not got {lost} points of the curves", "warning")

    def _warn(self, text: str) -> None:
        if not self._warned:
            self._warned = True
            self._tell(text, "warning")


def _words(error: BaseException) -> str:
    """The error as one line, without credentials."""
    first = next(iter(str(error).splitlines()), "")
    return without_secrets(f"{type(error).__name__}: {first}"[:500])


def without_secrets(text: str, names: Iterable[str] = SECRETS) -> str:
    """The text without the user part of addresses, and without the values of these environment variables."""
    text = re.sub(r"://[^/@\s]+@", "://", text)
    for name in names:
        if value := os.environ.get(name):
            text = text.replace(value, f"${name}")
    return text
