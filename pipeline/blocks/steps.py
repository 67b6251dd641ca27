"""The sentences that a loop over the blocks says while it runs."""

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
    """A sentence that belongs in the job's events."""

    text: str
    level: Literal["info", "warning"] = "info"


def run_through(
    loop: Generator[Said, None, Answer], told: Callable[[Said], object] = lambda step: None
) -> Answer:
    """The result of a loop, run to its end. `told` is called with each step on the way."""
    while True:
        try:
            told(next(loop))
        except StopIteration as end:
            answer: Answer = end.value
            return answer
