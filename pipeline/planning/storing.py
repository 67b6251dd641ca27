"""The rates of storage, and how reading, computing and storing of blocks overlap."""

from collections.abc import Sequence
from dataclasses import dataclass

READ, WRITTEN = 1e9, 0.5e9  # bytes a second of one node: a local disk, or ten connections of 100 MB/s to S3
HASHED = 1.5e9  # bytes a second of SHA-256 in one thread, with the CPU's instructions for it
SNAPSHOT_SECONDS = 60.0  # activations are stored about as often
PER_BLOCK = 0.1  # seconds of orchestration beside a block's work; 0.1 to 0.2 were measured on 2 cores


@dataclass(frozen=True)
class BlockTimes:
    """The seconds of one block: to read it, to compute with it, and to store it."""

    read: float
    compute: float
    store: float


def walked(blocks: Sequence[BlockTimes]) -> float:
    """The seconds of a walk over blocks. The next block is read while one computes, and a block is stored
    while the next one computes; at most one block is read ahead, and at most one waits to be stored."""
    read = computed = stored = began = 0.0
    for block in blocks:
        read = max(read, began) + block.read
        began = max(computed, read)
        computed = max(began + block.compute, stored)
        stored = max(stored, computed) + block.store
    return stored


def reading(size: float) -> float:
    """The seconds to read and verify some bytes in one pass."""
    return size / min(READ, HASHED)


def storing(size: float) -> float:
    """The seconds to hash and write some bytes in one pass."""
    return size / min(WRITTEN, HASHED)
