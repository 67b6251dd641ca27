"""A trained model becomes a stored checkpoint: every worker writes some of its blocks."""

from collections.abc import Callable, Iterable, Iterator, Mapping

from torch import Tensor

from pipeline.artifacts.refs import CheckpointRef
from pipeline.checkpoint.assemble import StoredTensors, assemble
from pipeline.checkpoint.writer import put_tensors
from pipeline.storage.content import ContentStore
from workers.training import ranks


def parts_of(names: Mapping[str, str], blocks: str) -> Iterator[list[str]]:
    """Yield the checkpoint names of the tensors outside the blocks, then those of each block. `names` maps
    parameters to checkpoint names."""
    prefix = f"{blocks}."
    yield sorted({disk for name, disk in names.items() if not name.startswith(prefix)})
    inside = [name for name in names if name.startswith(prefix)]
    for block in range(1 + max(int(name.removeprefix(prefix).split(".")[0]) for name in inside)):
        yield sorted(names[name] for name in inside if name.startswith(f"{prefix}{block}."))


def store_shares(
    content: ContentStore,
    base: CheckpointRef,
    parts: Iterable[list[str]],
    now: Callable[[str], Tensor],
    held: Callable[[str, Tensor], int],
) -> tuple[CheckpointRef, int]:
    """Store a checkpoint with the tensors that `now(name)` gives; return it with the sum of
    `held(name, tensor)` over them. All workers get the same result.

    Every worker calls `now` for every name in the same order, since collectives may be behind it, and stores
    every n-th part. `base` gives config and tokenizer.
    """
    own: dict[int, StoredTensors] = {}
    counted = 0
    for number, names in enumerate(parts):
        mine = number % ranks.workers() == ranks.rank()
        tensors: dict[str, Tensor] = {}
        for name in names:
            tensor = now(name)
            if mine:
                tensors[name] = tensor
                counted += held(name, tensor)
        if mine:
            own[number] = StoredTensors.of(put_tensors(content, "part.safetensors", tensors))
    found = ranks.gathered((own, counted))
    stored = {number: part for shares, _ in found for number, part in shares.items()}
    in_order = [stored[number] for number in sorted(stored)]
    checkpoint = ranks.from_first(lambda: assemble(content, base, in_order))
    return checkpoint, sum(count for _, count in found)
