"""Block by block: the pruned block learns to give, on the pruned model's activations, what the dense block
gives on the dense model's.

    for each block of the pruned model:
        dense activations: run on, to the end of the matching dense block; they are the targets
        fit the block on the pruned activations, unless an earlier attempt has
        pruned activations: run on through the fitted block as it is stored

Memory holds one block at a time, and this worker's activations of both models. Every batch is shared out over
the workers, gradients are added up, so that all hold equal weights and any number of workers fits alike.

Shape legend: N sequences of this worker, B of one micro-batch, L tokens of each, H hidden size.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pipeline.artifacts import CheckpointRef, KeepRef
from pipeline.checkpoint.assemble import StoredTensors
from pipeline.checkpoint.keeps import KeepReader
from pipeline.checkpoint.reader import CheckpointReader, read_tensor
from pipeline.checkpoint.stream import BlockStream
from pipeline.errors import InvalidSpec, NumericalError
from pipeline.recovery import Reconstruction, Recovery
from pipeline.storage.content import ContentStore
from pipeline.tensor.divergence import matching_blocks
from pipeline.training import BlockFit
from workers.training import ranks

LARGEST_SCALE = 2.0**16  # of float16's loss; halved where gradients overflow


@dataclass(frozen=True)
class _Setting:
    recovery: Recovery
    epochs: int
    micro_batch_size: int
    dtype: torch.dtype
    device: torch.device

    @property
    def own_of_batch(self) -> range:
        """Places within a global batch that this worker takes."""
        size, count = self.recovery.global_batch_size, ranks.workers()
        return range(ranks.rank() * size // count, (ranks.rank() + 1) * size // count)


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
    """Per block that is not `done`: how well it fits, and its tensors by checkpoint name, in stored types.

    To be called by every worker with equal arguments; all yield equal tensors. `sequence(i)`: the i-th
    training sequence of the data order, int64 [L]. `done`: the blocks of an earlier attempt, as they were
    stored; going on after them gives the bits of an undisturbed run with as many workers. Raises InvalidSpec
    when the hidden sizes differ and NumericalError for activations that are not finite.
    """
    assert isinstance(recovery.trains, Reconstruction)
    setting = _Setting(recovery, recovery.trains.epochs, micro_batch_size, dtype, device)
    size = recovery.global_batch_size
    assert size >= ranks.workers(), "every worker has a part in every batch"
    batches = range(recovery.total_steps)
    sequences = [sequence(batch * size + place) for batch in batches for place in setting.own_of_batch]
    teacher = _Walk(CheckpointReader(content, dense), sequences, setting)
    student = _Walk(CheckpointReader(content, pruned), sequences, setting)
    if teacher.hidden_NLH.shape != student.hidden_NLH.shape:
        raise InvalidSpec(
            f"reconstruction needs equal hidden sizes, the pruned model has "
            f"{student.hidden_NLH.shape[-1]}, the dense one {teacher.hidden_NLH.shape[-1]}; train end to end",
            "spec.recovery.trains",
        )
    keeps = None if keep is None else KeepReader(content, pruned, keep)
    reached = 0
    for block, match in enumerate(matching_blocks(student.blocks, teacher.blocks)):
        for passed in range(reached, match + 1):
            teacher.advance(passed, teacher.stored(passed))
        reached = match + 1
        if block < len(done):
            student.advance(block, student.read(block, content, done[block]))
            continue
        fit, tensors = _fit(student, block, teacher.hidden_NLH, keeps, setting)
        student.advance(block, tensors)
        names = student.names(block)
        yield fit, {names[name]: tensor for name, tensor in tensors.items()}


class _Walk:
    """A model's activations of this worker's sequences, brought forward block by block."""

    def __init__(self, reader: CheckpointReader, sequences: Sequence[Tensor], setting: _Setting) -> None:
        self._reader = reader
        self._micro = setting.micro_batch_size
        self.stream = BlockStream(reader, dtype=setting.dtype, device=setting.device)
        self.blocks = self.stream.num_blocks
        self.hidden_NLH = torch.cat(list(self.stream.embed(sequences)))

    def names(self, block: int) -> dict[str, str]:
        """Name inside the block → name in the checkpoint."""
        return self.stream.block_tensors(block)

    def stored(self, block: int) -> dict[str, Tensor]:
        """A block's tensors as the checkpoint has them, by name inside the block."""
        return {name: self._reader.tensor(disk) for name, disk in self.names(block).items()}

    def read(self, block: int, content: ContentStore, stored: StoredTensors) -> dict[str, Tensor]:
        """The same, as an earlier attempt has stored them."""
        return {
            name: read_tensor(content, stored.file.blob, stored.tensors[disk], name=disk)
            for name, disk in self.names(block).items()
        }

    @torch.no_grad()
    def advance(self, block: int, tensors: dict[str, Tensor]) -> None:
        """The block's outputs take the place of its inputs."""
        self.stream.load(block, tensors)
        for hidden_BLH in self.hidden_NLH.split(self._micro):
            hidden_BLH.copy_(self.stream.run(block, hidden_BLH))
        self.stream.release(block)

    @torch.no_grad()
    def squared_distance(self, block: int, tensors: dict[str, Tensor], target_NLH: Tensor) -> float:
        """Sum over all workers of the squared differences between the block's outputs and the target."""
        self.stream.load(block, tensors)
        total = 0.0
        for hidden_BLH, target_BLH in self.micro_batches(self.hidden_NLH, target_NLH):
            difference = self.stream.run(block, hidden_BLH).float() - target_BLH.float()
            total += difference.square().sum(dtype=torch.float64).item()
        self.stream.release(block)
        return ranks.summed([total], target_NLH.device)[0]

    def micro_batches(self, x_NLH: Tensor, y_NLH: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Both cut into micro-batches."""
        return zip(x_NLH.split(self._micro), y_NLH.split(self._micro), strict=True)


def _fit(
    student: _Walk, block: int, target_NLH: Tensor, keeps: KeepReader | None, setting: _Setting
) -> tuple[BlockFit, dict[str, Tensor]]:
    """The block's tensors, fitted, or as they were where that did not bring them nearer to the target."""
    old = student.stored(block)
    squares = sum(one.float().square().sum(dtype=torch.float64).item() for one in target_NLH)
    total = ranks.summed([squares], target_NLH.device)[0]
    before = student.squared_distance(block, old, target_NLH)
    if not (math.isfinite(total) and math.isfinite(before) and total > 0):
        raise NumericalError(
            f"block {block}: activations of the dense or the pruned model are not finite, or all zero; check "
            f"the checkpoint, or use recovery.precision float32"
        )
    training = _Training(student, block, old, target_NLH, total, keeps, setting)
    new = training.run()
    after = student.squared_distance(block, new, target_NLH)
    if not after < before:  # nan is no better
        new, after = old, before
    return BlockFit(block=block, before=before / total, after=after / total), new


class _Training:
    """AdamW on one block's float32 weights, for `epochs` passes over the batches."""

    def __init__(
        self,
        student: _Walk,
        block: int,
        old: Mapping[str, Tensor],
        target_NLH: Tensor,
        total: float,
        keeps: KeepReader | None,
        setting: _Setting,
    ) -> None:
        self._student = student
        self._block = block
        self._old = old
        self._target_NLH = target_NLH
        self._setting = setting
        recovery = setting.recovery
        self._batch_squares = total * recovery.global_batch_size / recovery.sequences
        module = student.stream.load(block, dict(old))
        self._weights = {  # copies: the old ones may stay
            name: nn.Parameter(old[name].to(setting.device, torch.float32, copy=True))
            for name in student.names(block)
            if name not in dict(module.named_buffers())
        }
        self._pruned = {
            name: ~keeps.keep(disk).to(setting.device)
            for name, disk in student.names(block).items()
            if keeps is not None and disk in keeps.tensors
        }
        self._scale = LARGEST_SCALE if setting.dtype == torch.float16 else 1.0

    def run(self) -> dict[str, Tensor]:
        """The fitted tensors in their stored types. It ends early when gradients are not finite."""
        recovery, own = self._setting.recovery, len(self._setting.own_of_batch)
        optimizer = self._optimizer()
        steps = self._setting.epochs * recovery.total_steps
        for step in range(steps):
            first = step % recovery.total_steps * own
            if not self._gradients(slice(first, first + own)):
                break
            if recovery.optimizer.gradient_clipping is not None:
                nn.utils.clip_grad_norm_(self._weights.values(), recovery.optimizer.gradient_clipping)
            for group in optimizer.param_groups:
                group["lr"] = recovery.learning_rate.at(step, steps=steps)
            optimizer.step()
        self._student.stream.release(self._block)
        fitted = {name: one.detach().to(self._old[name].dtype).cpu() for name, one in self._weights.items()}
        return {**self._old, **fitted}

    def _gradients(self, own: slice) -> bool:
        """Set the gradients of a batch. False: they are not finite, whatever the loss is scaled by."""
        while True:
            flat = self._flat_gradients(own)
            if flat.isfinite().all():
                break
            if self._scale <= 1:
                return False
            self._scale /= 2
        sizes = [weight.numel() for weight in self._weights.values()]
        for (name, weight), part in zip(self._weights.items(), flat.split(sizes), strict=True):
            weight.grad = part.view_as(weight)
            if name in self._pruned:
                weight.grad.masked_fill_(self._pruned[name], 0)
        return True

    def _flat_gradients(self, own: slice) -> Tensor:
        """Gradients of the relative distance of a batch, added up over micro-batches and workers."""
        for weight in self._weights.values():
            weight.grad = torch.zeros_like(weight)
        for x_BLH, y_BLH in self._student.micro_batches(self._student.hidden_NLH[own], self._target_NLH[own]):
            with torch.enable_grad():
                used = {name: weight.to(self._setting.dtype) for name, weight in self._weights.items()}
                output_BLH = self._student.stream.run(self._block, x_BLH, weights=used)
                squares = (output_BLH.float() - y_BLH.float()).square().sum()
                (squares * (self._scale / self._batch_squares)).backward()
        grads = [weight.grad for weight in self._weights.values()]
        return ranks.add_up(torch.cat([grad.flatten() for grad in grads if grad is not None])) / self._scale

    def _optimizer(self) -> torch.optim.AdamW:
        """Vectors are not decayed."""
        asked = self._setting.recovery.optimizer
        weights = self._weights.values()
        groups = [
            {"params": [one for one in weights if one.dim() > 1], "weight_decay": asked.weight_decay},
            {"params": [one for one in weights if one.dim() <= 1], "weight_decay": 0.0},
        ]
        return torch.optim.AdamW(groups, betas=asked.betas, eps=asked.epsilon)
