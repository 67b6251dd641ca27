"""Reconstruction: the weights of each pruned block are fitted to the dense block's output, its zeros held.

See block_fitting.py for the walk over the blocks.
"""

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn

from pipeline.artifacts.curve import BlockFit
from pipeline.artifacts.refs import CheckpointRef, KeepRef
from pipeline.checkpoint.assemble import StoredTensors
from pipeline.checkpoint.keeps import KeepReader
from pipeline.spec.recovery import Reconstruction, Recovery
from pipeline.storage.content import ContentStore
from workers.training.block_fitting import Setting, Walk, fit_blocks


def reconstruct(
    recovery: Recovery,
    content: ContentStore,
    *,
    dense: CheckpointRef,
    pruned: CheckpointRef,
    keep: KeepRef | None,
    sequence: Callable[[int], Tensor],
    micro_batch_size: int,
    dtype: torch.dtype,
    device: torch.device,
    done: Sequence[StoredTensors] = (),
) -> Iterator[tuple[BlockFit, dict[str, Tensor]]]:
    """Yield for each block that is not `done` how well it fits, and its tensors by checkpoint name. See
    fit_blocks."""
    assert isinstance(recovery.trains, Reconstruction)
    setting = Setting(recovery, recovery.trains.epochs, micro_batch_size, dtype, device)
    keeps = None if keep is None else KeepReader(content, pruned, keep)
    fitted = fit_blocks(
        setting,
        content,
        dense=dense,
        own=pruned,
        sequence=sequence,
        trainee=lambda walk, block: _Weights(walk, block, keeps, device),
        done=done,
    )
    for fit, tensors, _ in fitted:
        yield fit, tensors


class _Weights:
    """All weights of a block. Pruned ones stay zero. See BlockTrainee."""

    def __init__(self, walk: Walk, block: int, keeps: KeepReader | None, device: torch.device) -> None:
        self._stored = walk.stored(block)
        buffers = walk.stream.buffers(block)
        self.parameters = {  # copies, because the stored tensors may stay as they are
            name: nn.Parameter(tensor.to(device, torch.float32, copy=True))
            for name, tensor in self._stored.items()
            if name not in buffers
        }
        self._pruned = {
            name: ~keeps.keep(disk).to(device)
            for name, disk in walk.names(block).items()
            if keeps is not None and disk in keeps.tensors
        }

    def weights(self, step: int) -> dict[str, Tensor]:
        """The trained weights, the same at every step."""
        return dict(self.parameters)

    def clear(self, name: str, gradient: Tensor) -> None:
        """Clear the gradients of pruned weights."""
        if name in self._pruned:
            gradient.masked_fill_(self._pruned[name], 0)

    def tensors(self) -> dict[str, Tensor]:
        """The block's tensors in their stored types."""
        fitted = {
            name: one.detach().to(self._stored[name].dtype).cpu() for name, one in self.parameters.items()
        }
        return {**self._stored, **fitted}
