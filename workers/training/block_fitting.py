"""Training block by block: each block, on the trained model's activations, learns to give the output of the
dense block on the dense model's activations.

    for each block of the model that is trained:
        advance the dense activations to the end of the matching dense block; they are the targets
        fit the block on the model's own activations, unless an earlier attempt has fitted it
        advance the model's own activations through the fitted block as it is stored

Memory holds one block at a time, and this worker's activations of both models. Every batch is split over the
workers and their gradients are summed, so that all hold equal parameters, and any number of workers fits
alike. Two files say which part of a block is trained (its BlockTrainee): its weights (reconstruction.py) or
its masks (mask_blocks.py).

Shape legend: N sequences of this worker, B of one micro-batch, L tokens of each, H hidden size.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

import torch
from torch import Tensor, nn

from pipeline.artifacts.curve import BlockFit
from pipeline.artifacts.refs import CheckpointRef
from pipeline.checkpoint.assemble import StoredTensors
from pipeline.checkpoint.reader import CheckpointReader, read_tensor
from pipeline.checkpoint.stream import BlockStream
from pipeline.errors import InvalidSpec, NumericalError
from pipeline.spec.training_recipe import TrainingRecipe
from pipeline.storage.content import ContentStore
from pipeline.tensor.divergence import matching_blocks
from workers.training import ranks

MAX_SCALE = 2.0**16  # scale of the loss in float16; it is halved where gradients overflow


class BlockTrainee(Protocol):
    """The trained part of a block."""

    @property
    def parameters(self) -> Mapping[str, nn.Parameter]:
        """The trained parameters, by name inside the block."""
        ...

    def weights(self, step: int) -> dict[str, Tensor]:
        """The tensors that replace the block's weights, by name inside it, in the forward pass of a step."""
        ...

    def clear(self, name: str, gradient: Tensor) -> None:
        """Clear in place the elements of a parameter's gradient that the parameter may not follow."""
        ...

    def tensors(self) -> dict[str, Tensor]:
        """The block's tensors by name inside it, as they would be stored."""
        ...


Trained = TypeVar("Trained", bound=BlockTrainee)


@dataclass(frozen=True)
class Setting:
    """The settings of block training. `epochs`: passes over the sequences of the recipe."""

    recipe: TrainingRecipe
    epochs: int
    micro_batch_size: int
    dtype: torch.dtype
    device: torch.device

    @property
    def own_of_batch(self) -> range:
        """The places within a global batch that this worker takes."""
        size, count = self.recipe.global_batch_size, ranks.workers()
        return range(ranks.rank() * size // count, (ranks.rank() + 1) * size // count)


def fit_blocks(
    setting: Setting,
    content: ContentStore,
    *,
    dense: CheckpointRef,
    own: CheckpointRef,
    sequence: Callable[[int], Tensor],
    trainee: Callable[["Walk", int], Trained],
    done: Sequence[StoredTensors] = (),
) -> Iterator[tuple[BlockFit, dict[str, Tensor], Trained]]:
    """Yield for each block that is not `done`: how well it fits, its tensors by checkpoint name in stored
    types, and its trainee.

    Every worker calls this with equal arguments, and all yield equal tensors. `own`: the model that is
    trained. `sequence(i)`: the i-th training sequence of the data order, int64 [L]. `done`: the blocks of an
    earlier attempt, as they were stored; continuing after them gives the same bits as an undisturbed run with
    as many workers. Raises InvalidSpec when the hidden sizes differ and NumericalError for activations that
    are not finite.
    """
    size = setting.recipe.global_batch_size
    assert size >= ranks.workers(), "every worker has a part in every batch"
    batches = range(setting.recipe.total_steps)
    sequences = [sequence(batch * size + place) for batch in batches for place in setting.own_of_batch]
    teacher = Walk(CheckpointReader(content, dense), sequences, setting)
    student = Walk(CheckpointReader(content, own), sequences, setting)
    if teacher.hidden_NLH.shape != student.hidden_NLH.shape:
        raise InvalidSpec(
            f"reconstruction needs equal hidden sizes, the pruned model has "
            f"{student.hidden_NLH.shape[-1]}, the dense one {teacher.hidden_NLH.shape[-1]}; train end to end",
            "spec.recovery.trains",
        )
    reached = 0
    for block, match in enumerate(matching_blocks(student.blocks, teacher.blocks)):
        for passed in range(reached, match + 1):
            teacher.advance(passed, teacher.stored(passed))
        reached = match + 1
        if block < len(done):
            student.advance(block, student.read(block, content, done[block]))
            continue
        trained = trainee(student, block)
        fit, tensors = _fit(student, block, teacher.hidden_NLH, trained, setting)
        student.advance(block, tensors)
        names = student.names(block)
        yield fit, {names[name]: tensor for name, tensor in tensors.items()}, trained


class Walk:
    """A model's activations on this worker's sequences, which advance block by block."""

    def __init__(self, reader: CheckpointReader, sequences: Sequence[Tensor], setting: Setting) -> None:
        self._reader = reader
        self._micro = setting.micro_batch_size
        self.stream = BlockStream(reader, dtype=setting.dtype, device=setting.device)
        self.blocks = self.stream.num_blocks
        self.hidden_NLH = torch.cat(list(self.stream.embed(sequences)))

    def names(self, block: int) -> dict[str, str]:
        """The mapping from names inside the block to names in the checkpoint."""
        return self.stream.block_tensors(block)

    def stored(self, block: int) -> dict[str, Tensor]:
        """A block's tensors as the checkpoint has them, by name inside the block."""
        return {name: self._reader.tensor(disk) for name, disk in self.names(block).items()}

    def read(self, block: int, content: ContentStore, stored: StoredTensors) -> dict[str, Tensor]:
        """A block's tensors as an earlier attempt has stored them, by name inside the block."""
        return {
            name: read_tensor(content, stored.file.blob, stored.tensors[disk], name=disk)
            for name, disk in self.names(block).items()
        }

    @torch.no_grad()
    def advance(self, block: int, tensors: dict[str, Tensor]) -> None:
        """Replace the block's inputs by its outputs."""
        self.stream.load(block, tensors)
        for hidden_BLH in self.hidden_NLH.split(self._micro):
            hidden_BLH.copy_(self.stream.run(block, hidden_BLH))
        self.stream.release(block)

    @torch.no_grad()
    def squared_distance(self, block: int, tensors: dict[str, Tensor], target_NLH: Tensor) -> float:
        """The sum over all workers of the squared differences between the block's outputs and the target."""
        self.stream.load(block, tensors)
        total = 0.0
        for hidden_BLH, target_BLH in self.micro_batches(self.hidden_NLH, target_NLH):
            output_BLH = self.stream.hidden(self.stream.run(block, hidden_BLH))
            difference = output_BLH.float() - self.stream.hidden(target_BLH).float()
            total += difference.square().sum(dtype=torch.float64).item()
        self.stream.release(block)
        return ranks.summed([total], target_NLH.device)[0]

    def micro_batches(self, x_NLH: Tensor, y_NLH: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Pairs of micro-batches, cut from both tensors alike."""
        return zip(x_NLH.split(self._micro), y_NLH.split(self._micro), strict=True)


def _fit(
    student: Walk, block: int, target_NLH: Tensor, trained: BlockTrainee, setting: Setting
) -> tuple[BlockFit, dict[str, Tensor]]:
    """Train a block; return how well it fits and its tensors. Where training did not bring its output nearer
    to the target, these are the tensors from before."""
    old = {name: one.clone() for name, one in trained.tensors().items()}  # training overwrites the originals
    squares = sum(
        one.float().square().sum(dtype=torch.float64).item() for one in student.stream.hidden(target_NLH)
    )
    total = ranks.summed([squares], target_NLH.device)[0]
    before = student.squared_distance(block, old, target_NLH)
    if not (math.isfinite(total) and math.isfinite(before) and total > 0):
        raise NumericalError(
            f"block {block}: activations of the dense or the pruned model are not finite, or all zero; check "
            f"the checkpoint, or use recovery.precision float32"
        )
    _Training(student, block, trained, target_NLH, total, setting).run()
    new = trained.tensors()
    after = student.squared_distance(block, new, target_NLH)
    if not after < before:  # also when it is nan
        new, after = old, before
    return BlockFit(block=block, before=before / total, after=after / total), new


class _Training:
    """AdamW on the trained parameters of one block, in float32, for `epochs` passes over the batches."""

    def __init__(
        self,
        student: Walk,
        block: int,
        trained: BlockTrainee,
        target_NLH: Tensor,
        total: float,
        setting: Setting,
    ) -> None:
        self._student = student
        self._block = block
        self._trained = trained
        self._target_NLH = target_NLH
        self._setting = setting
        recipe = setting.recipe
        self._batch_squares = total * recipe.global_batch_size / recipe.sequences
        self._scale = MAX_SCALE if setting.dtype == torch.float16 else 1.0

    def run(self) -> None:
        """Train the block. Training ends early when gradients are not finite."""
        recipe, own = self._setting.recipe, len(self._setting.own_of_batch)
        self._student.stream.load(self._block, self._student.stored(self._block))
        optimizer = self._optimizer()
        parameters = self._trained.parameters
        steps = self._setting.epochs * recipe.total_steps
        for step in range(steps):
            first = step % recipe.total_steps * own
            if not self._gradients(step, slice(first, first + own)):
                break
            if recipe.optimizer.gradient_clipping is not None:
                nn.utils.clip_grad_norm_(parameters.values(), recipe.optimizer.gradient_clipping)
            for group in optimizer.param_groups:
                group["lr"] = recipe.learning_rate.at(step, steps=steps)
            optimizer.step()
        self._student.stream.release(self._block)

    def _gradients(self, step: int, own: slice) -> bool:
        """Set the gradients of a batch. Returns False if they are not finite at any scale of the loss."""
        while True:
            flat = self._flat_gradients(step, own)
            if flat.isfinite().all():
                break
            if self._scale <= 1:
                return False
            self._scale /= 2
        parameters = self._trained.parameters
        sizes = [parameter.numel() for parameter in parameters.values()]
        for (name, parameter), part in zip(parameters.items(), flat.split(sizes), strict=True):
            parameter.grad = part.view_as(parameter)
            self._trained.clear(name, parameter.grad)
        return True

    def _flat_gradients(self, step: int, own: slice) -> Tensor:
        """The gradients of the relative distance of a batch, summed over micro-batches and workers."""
        parameters = self._trained.parameters.values()
        for parameter in parameters:
            parameter.grad = torch.zeros_like(parameter)
        for x_BLH, y_BLH in self._student.micro_batches(self._student.hidden_NLH[own], self._target_NLH[own]):
            with torch.enable_grad():
                used = {
                    name: one.to(self._setting.dtype) for name, one in self._trained.weights(step).items()
                }
                stream = self._student.stream
                output_BLH = stream.hidden(stream.run(self._block, x_BLH, weights=used))
                squares = (output_BLH.float() - stream.hidden(y_BLH).float()).square().sum()
                (squares * (self._scale / self._batch_squares)).backward()
        grads = [parameter.grad for parameter in parameters]
        return ranks.add_up(torch.cat([grad.flatten() for grad in grads if grad is not None])) / self._scale

    def _optimizer(self) -> torch.optim.AdamW:
        """AdamW with weight decay on matrices only."""
        asked = self._setting.recipe.optimizer
        parameters = self._trained.parameters.values()
        groups = [
            {"params": [one for one in parameters if one.dim() > 1], "weight_decay": asked.weight_decay},
            {"params": [one for one in parameters if one.dim() <= 1], "weight_decay": 0.0},
        ]
        return torch.optim.AdamW(groups, betas=asked.betas, eps=asked.epsilon)
