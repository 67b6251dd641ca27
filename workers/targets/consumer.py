"""What a fresh process is asked to do with a model in a target, and what it answers.

Both cross the process border as JSON. Shape: P tokens of a prompt, N generated tokens.
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

TOP = 8  # log-probabilities that are compared for each generated token


@dataclass(frozen=True, kw_only=True)
class Opening:
    """The model to open. `directory`: the Hugging Face checkpoint; `exported`: the files that were written
    for the target, in a directory of their own. `length`: positions that prompt and answer may take together.
    `gpus`: number of GPUs to use, 0 for the CPU. `exact`: True to compute exactly what is usually
    rounded, such as the cache. `values`: the type of packed weights, None for one that keeps all bits.
    `kernels`: `dense` for those of the same make that read zeros too."""

    kind: str
    directory: str
    exported: str | None
    threads: int
    length: int
    gpus: int = 0
    exact: bool = False
    values: str | None = None
    kernels: str = "sparse"


@dataclass(frozen=True)
class Generated:
    """A greedy answer. `tokens`: its N ids. `top`: for each of them the log-probabilities of the likeliest
    next tokens, by id."""

    tokens: list[int]
    top: list[dict[int, float]]


@dataclass(frozen=True)
class Timing:
    """A greedy answer on the clock, in seconds. `first_token`: until the first token is there; `decode`: from
    there until the last one."""

    first_token: float
    decode: float


class Session(Protocol):
    """A model that is open in its target. The process that opened it ends with it."""

    version: str

    def generate(self, prompt: Sequence[int], tokens: int) -> Generated:
        """Answer greedily, from an empty cache, and go on after a token that would end the text."""
        ...

    def timed(self, prompt: Sequence[int], tokens: int) -> Timing:
        """Answer as `generate` does, on the clock."""
        ...

    def tokenize(self, text: str) -> list[int] | None:
        """The ids of a text by the target's own tokenizer, or None if it has none."""
        ...


class ScoringSession(Protocol):
    """A model that is open in a target which tells how well it predicts a text."""

    version: str

    def loss(self, tokens: Sequence[int], scored: int) -> float:
        """The cross-entropy in nats, summed over the last `scored` predictions of a text."""
        ...


def on_the_clock(arrivals: Iterator[None], tokens: int) -> Timing:
    """Time an answer whose tokens arrive one by one. Raises RuntimeError where their number is another."""
    started = time.perf_counter()
    first, last, count = started, started, 0
    for _ in arrivals:
        last = time.perf_counter()
        first = last if count == 0 else first
        count += 1
    if count != tokens:
        raise RuntimeError(f"{tokens} tokens were asked for, and {count} came")
    return Timing(first_token=first - started, decode=last - first)


def exported_file(opening: Opening, ending: str) -> Path:
    """The exported file with an ending."""
    assert opening.exported is not None, "this target reads files of its own"
    (found,) = Path(opening.exported).glob(f"*{ending}")
    return found
