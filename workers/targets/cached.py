"""Greedy generation with a graph that takes token ids and a key-value cache, and gives logits and a new
cache. onnxruntime and OpenVINO run the same graph."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from workers.targets.consumer import TOP, Generated, Timing, on_the_clock

IDS, LOGITS = "input_ids", "logits"
Arrays = dict[str, NDArray[np.generic]]


def past(block: int, part: str) -> str:
    """The name of a block's keys or values that go in."""
    return f"past.{block}.{part}"


def present(block: int, part: str) -> str:
    """The name of a block's keys or values that come out."""
    return f"present.{block}.{part}"


class Graph(Protocol):
    """A graph that is open in its program."""

    @property
    def version(self) -> str:
        """The version of the program."""
        ...

    @property
    def cache(self) -> Mapping[str, tuple[int, ...]]:
        """The shape of each input that holds keys or values, with 0 positions."""
        ...

    def run(self, feed: Arrays) -> Arrays:
        """One pass: all inputs by name → all outputs by name."""
        ...


class CachedSession:
    """See Session. The program has no tokenizer of its own."""

    def __init__(self, graph: Graph) -> None:
        self.version = graph.version
        self._graph = graph

    def generate(self, prompt: Sequence[int], tokens: int) -> Generated:
        """The answer with its log-probabilities."""
        chosen, top = [], []
        for logits_V in self._steps(prompt, tokens):
            shifted_V = logits_V - logits_V.max()
            logprobs_V = shifted_V - np.log(np.exp(shifted_V).sum())
            best = np.argsort(-logprobs_V, kind="stable")[:TOP]
            chosen.append(int(best[0]))
            top.append({int(i): float(logprobs_V[i]) for i in best})
        return Generated(chosen, top)

    def timed(self, prompt: Sequence[int], tokens: int) -> Timing:
        """A token is there when its logits are."""
        return on_the_clock((None for _ in self._steps(prompt, tokens)), tokens)

    def tokenize(self, text: str) -> list[int] | None:
        """There is none."""
        return None

    def _steps(self, prompt: Sequence[int], tokens: int) -> Iterator[NDArray[np.float64]]:
        """The logits before each of `tokens` tokens, float64 [V]."""
        feed: Arrays = {name: np.zeros(shape, np.float32) for name, shape in self._graph.cache.items()}
        ids = list(prompt)
        for _ in range(tokens):
            out = self._graph.run({IDS: np.array([ids], np.int64), **feed})
            logits_V = out[LOGITS][0, -1].astype(np.float64)
            yield logits_V
            ids = [int(logits_V.argmax())]
            feed = {name: out[name.replace("past", "present", 1)] for name in feed}
