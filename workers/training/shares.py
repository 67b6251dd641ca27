"""A trained model becomes a stored checkpoint: every worker writes some of its blocks.

Collectives only move tensors. What takes long (merging, checking, hashing and storing) is done by a thread of
the worker that writes the block, while the next blocks are collected.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

from pipeline.artifacts.refs import CheckpointRef
from pipeline.checkpoint.assemble import StoredTensors, assemble
from pipeline.errors import SecateurError
from pipeline.storage.content import ContentStore
from workers.training import ranks

Part = TypeVar("Part")
Written = TypeVar("Written")


def parts_of(names: Mapping[str, str], blocks: str) -> Iterator[list[str]]:
    """Yield the checkpoint names of the tensors outside the blocks, then those of each block. `names` maps
    parameters to checkpoint names."""
    prefix = f"{blocks}."
    yield sorted({disk for name, disk in names.items() if not name.startswith(prefix)})
    inside = [name for name in names if name.startswith(prefix)]
    for block in range(1 + max(int(name.removeprefix(prefix).split(".")[0]) for name in inside)):
        yield sorted(names[name] for name in inside if name.startswith(f"{prefix}{block}."))


def by_shares(
    parts: Iterable[list[str]],
    collect: Callable[[str, int], Part],
    write: Callable[[int, Mapping[str, Part]], Written],
) -> list[Written]:
    """Write every part on one worker; return what `write` gave for them, in order, on all workers.

    All workers call `collect(name, worker)` for every name in the same order, since collectives may be behind
    it; it gives `worker` the tensor. `write(number, collected)` is called in a thread of that worker; it must
    use no collectives. At most two parts are in memory. A SecateurError of `write` is raised on all workers,
    after all parts.
    """
    with _Writer(write) as writer:
        for number, names in enumerate(parts):
            worker = number % ranks.workers()
            collected = {name: collect(name, worker) for name in names}
            if worker == ranks.rank():
                writer.put(number, collected)
        own, error = writer.end()
    ranks.raise_together(error)
    every = {number: one for (written,) in ranks.gathered((own,)) for number, one in written.items()}
    return [every[number] for number in sorted(every)]


def checkpoint_of(
    content: ContentStore, base: CheckpointRef, parts: Sequence[StoredTensors]
) -> CheckpointRef:
    """The checkpoint of these parts, with config and tokenizer of `base`. All workers call it."""
    return ranks.from_first(lambda: assemble(content, base, parts))


class _Writer(Generic[Part, Written]):
    """Writes one part at a time in a thread. After an error it writes no more."""

    def __init__(self, write: Callable[[int, Mapping[str, Part]], Written]) -> None:
        self._write = write
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="write")
        self._pending: tuple[int, Future[Written]] | None = None
        self._done: dict[int, Written] = {}
        self._error: SecateurError | None = None

    def __enter__(self) -> "_Writer[Part, Written]":
        return self

    def __exit__(self, *error: object) -> None:
        self._thread.shutdown(cancel_futures=True)

    def put(self, number: int, part: Mapping[str, Part]) -> None:
        """Begin to write a part, as soon as the one before is written."""
        self._wait()
        if self._error is None:
            self._pending = (number, self._thread.submit(self._write, number, part))

    def end(self) -> tuple[dict[int, Written], SecateurError | None]:
        """Wait for the last part; return all, and the first error."""
        self._wait()
        return self._done, self._error

    def _wait(self) -> None:
        if self._pending is None:
            return
        (number, pending), self._pending = self._pending, None
        try:
            self._done[number] = pending.result()
        except SecateurError as error:
            self._error = error
