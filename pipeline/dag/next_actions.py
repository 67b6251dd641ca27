"""What to do next: pure functions from state to decision, with the numbers behind it."""

from collections.abc import Collection
from typing import Literal

from pipeline.canonical import Frozen
from pipeline.dag.nodes import Dag, Node
from pipeline.job.events import FailureReason

MAX_STAGE_TRIES = 3


def next_actions(dag: Dag, *, done: Collection[str], started: Collection[str]) -> tuple[Node, ...]:
    """Nodes whose inputs are made and that nobody works on, in plan order."""
    return tuple(
        node
        for node in dag.nodes
        if node.id not in done and node.id not in started and node.needs <= set(done)
    )


class Decision(Frozen):
    """Try again after a pause, or stop with the reason."""

    action: Literal["retry", "fail"]
    delay_seconds: float
    why: str


def decide(failure: FailureReason, *, tries: int, limit: int) -> Decision:
    """After `tries` failed tries of at most `limit`: 2, 4, 8 ... seconds of pause, at most a minute."""
    if not failure.retryable:
        return Decision(action="fail", delay_seconds=0, why=f"{failure.code} does not go away by itself")
    if tries >= limit:
        return Decision(action="fail", delay_seconds=0, why=f"try {tries} of {limit} failed")
    delay = min(2.0**tries, 60.0)
    return Decision(
        action="retry", delay_seconds=delay, why=f"try {tries} of {limit} failed, next in {delay:.0f} s"
    )
