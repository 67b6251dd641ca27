"""Processes in which the real megatron-core runs (core.py), and the calls that tests make to them."""

import contextlib
import multiprocessing
from collections.abc import Iterator, Mapping
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

SIZES = (1, 2)  # of groups: each is made once, because gloo never frees groups completely
START_SECONDS = 300


def rank_main(rank: int, size: int, store: str, pipe: Connection) -> None:
    """Run the loop of one process."""
    from tests.pipeline.checkpoint.megatron import (
        core,
    )  # the child imports megatron-core, which the tests' own process must not

    core.serve(rank, size, store, pipe)


class Ranks:
    """Processes with megatron-core: one group for each of SIZES."""

    def __init__(self, pipes: Mapping[int, list[Connection]]) -> None:
        self._pipes = pipes

    def call(self, name: str, *, size: int, **arguments: object) -> Any:
        """Call a function of core.py on all ranks of a group, and return the first rank's answer. Raises the
        error of any rank."""
        pipes = self._pipes[size]
        for pipe in pipes:
            pipe.send((name, arguments))
        answers = [pipe.recv() for pipe in pipes]
        for fine, answer in answers:
            if not fine:
                raise RuntimeError(answer)
        return answers[0][1]

    def logits(self, name: str, *, size: int, tokens_BL: torch.Tensor, **arguments: object) -> torch.Tensor:
        """Call a function of core.py that answers with logits."""
        return torch.from_numpy(self.call(name, size=size, tokens=tokens_BL.tolist(), **arguments))


@contextlib.contextmanager
def started(directory: Path) -> Iterator[Ranks]:
    """Start the processes, and end them afterwards. `directory`: the place where they find each other."""
    context = multiprocessing.get_context("spawn")
    pipes: dict[int, list[Connection]] = {size: [] for size in SIZES}
    processes = []
    try:
        for size in SIZES:
            for rank in range(size):
                ours, theirs = context.Pipe()
                store = str(directory / f"rendezvous-{size}")
                processes.append(context.Process(target=rank_main, args=(rank, size, store, theirs)))
                processes[-1].start()
                pipes[size].append(ours)
        every = [pipe for group in pipes.values() for pipe in group]
        for pipe in every:
            assert pipe.poll(START_SECONDS), "megatron-core did not start"
            assert pipe.recv() == "ready"
        yield Ranks(pipes)
        for pipe in every:
            pipe.send(None)
        for process in processes:
            process.join(30)
    finally:
        for process in processes:
            process.kill()
            process.join()
