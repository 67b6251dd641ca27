"""The messages that a loop over the blocks yields while it runs."""

from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Literal, TypeVar

Said = TypeVar("Said")
Answer = TypeVar("Answer")


@dataclass(frozen=True)
class Progress:
    """`done` of `total` units of the stage are finished; `note` is for people."""

    done: float
    total: float
    note: str | None = None


@dataclass(frozen=True)
class Note:
    """A sentence for the job's events."""

    text: str
    level: Literal["info", "warning"] = "info"


def run_through(
    loop: Generator[Said, None, Answer], report: Callable[[Said], object] = lambda step: None
) -> Answer:
    """Runs a loop to its end and returns its result. `report` is called with each step on the way."""
    while True:
        try:
            report(next(loop))
        except StopIteration as end:
            answer: Answer = end.value
            return answer
