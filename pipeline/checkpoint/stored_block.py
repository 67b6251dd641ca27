"""The record of a finished block. Code that only passes it on needs no model library."""

from pipeline.artifacts.artifact import FileRef
from pipeline.artifacts.curve import BlockFit
from pipeline.artifacts.sparsity import LinearSparsity
from pipeline.canonical import Frozen
from pipeline.checkpoint.assemble import StoredTensors


class StoredBlock(Frozen):
    """A finished block: its weights, its packed keep tensors, and the zeros of each linear. `expert_tokens`:
    calibration tokens that reached each of its experts, if it has any and the method needs statistics. `fit`:
    the result of its reconstruction, if that was requested."""

    block: int
    weights: StoredTensors
    keep: FileRef
    linears: tuple[LinearSparsity, ...]
    expert_tokens: tuple[int, ...] = ()
    fit: BlockFit | None = None
