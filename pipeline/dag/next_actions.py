"""Decisions about the next actions of a job: pure functions of its state, with the reasons."""

from collections.abc import Collection
from typing import Literal

from pipeline.canonical import Frozen
from pipeline.dag.nodes import Dag, Node
from pipeline.job.events import FailureReason

MAX_STAGE_TRIES = 3


def next_actions(dag: Dag, *, done: Collection[str], started: Collection[str]) -> tuple[Node, ...]:
    """The nodes whose inputs are made and that have not been started, in plan order."""
    return tuple(
        node
        for node in dag.nodes
        if node.id not in done and node.id not in started and node.needs <= set(done)
    )


class Decision(Frozen):
    """The decision to try again after a pause, or to stop, with its reason."""

    action: Literal["retry", "fail"]
    delay_seconds: float
    why: str


def decide(failure: FailureReason, *, tries: int, limit: int) -> Decision:
    """Decide after `tries` failed tries of at most `limit`. Pauses last 2, 4, 8 ... at most 60 seconds."""
    if not failure.retryable:
        return Decision(action="fail", delay_seconds=0, why=f"{failure.code} does not go away by itself")
    if tries >= limit:
        return Decision(action="fail", delay_seconds=0, why=f"try {tries} of {limit} failed")
    delay = min(2.0**tries, 60.0)
    return Decision(
        action="retry", delay_seconds=delay, why=f"try {tries} of {limit} failed, next in {delay:.0f} s"
    )
