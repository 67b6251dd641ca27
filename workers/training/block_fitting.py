"""Block by block: a block learns to give, on the trained model's activations, what the dense block gives on
the dense model's.

    for each block of the model that is trained:
        dense activations: run on, to the end of the matching dense block; they are the targets
        fit the block on the model's own activations, unless an earlier attempt has
        the model's own activations: run on through the fitted block as it is stored

Memory holds one block at a time, and this worker's activations of both models. Every batch is shared out over
the workers, gradients are added up, so that all hold equal parameters and any number of workers fits alike.
What of a block is trained (a Trainee) is another file's: its weights (reconstruction.py), its masks
(mask_blocks.py).

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

MAX_SCALE = 2.0**16  # of float16's loss; halved where gradients overflow


class BlockTrainee(Protocol):
    """The trained part of a block."""

    @property
    def parameters(self) -> Mapping[str, nn.Parameter]:
        """The trained parameters, by name inside the block."""
        ...

    def weights(self, step: int) -> dict[str, Tensor]:
        """What takes the place of the block's weights, by name inside it, in the forward pass of a step."""
        ...

    def clear(self, name: str, gradient: Tensor) -> None:
        """Take out of a parameter's gradient, in place, what it may not follow."""
        ...

    def tensors(self) -> dict[str, Tensor]:
        """The block's tensors by name inside it, as they would be stored."""
        ...


Trained = TypeVar("Trained", bound=BlockTrainee)


@dataclass(frozen=True)
class Setting:
    """How blocks are trained. `epochs`: over the sequences of the recipe."""

    recipe: TrainingRecipe
    epochs: int
    micro_batch_size: int
    dtype: torch.dtype
    device: torch.device

    @property
    def own_of_batch(self) -> range:
        """Places within a global batch that this worker takes."""
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
    """Per block that is not `done`: how well it fits, its tensors by checkpoint name, in stored types, and
    what was trained of it.

    To be called by every worker with equal arguments; all yield equal tensors. `own`: the model that is
    trained. `sequence(i)`: the i-th training sequence of the data order, int64 [L]. `done`: the blocks of an
    earlier attempt, as they were stored; going on after them gives the bits of an undisturbed run with as
    many workers. Raises InvalidSpec when the hidden sizes differ and NumericalError for activations that are
    not finite.
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
    """A model's activations of this worker's sequences, brought forward block by block."""

    def __init__(self, reader: CheckpointReader, sequences: Sequence[Tensor], setting: Setting) -> None:
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
    student: Walk, block: int, target_NLH: Tensor, trained: BlockTrainee, setting: Setting
) -> tuple[BlockFit, dict[str, Tensor]]:
    """The block's tensors, fitted, or as they were where that did not bring them nearer to the target."""
    old = {name: one.clone() for name, one in trained.tensors().items()}  # training goes on in its memory
    squares = sum(one.float().square().sum(dtype=torch.float64).item() for one in target_NLH)
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
    if not after < before:  # nan is no better
        new, after = old, before
    return BlockFit(block=block, before=before / total, after=after / total), new


class _Training:
    """AdamW on what is trained of one block, in float32, for `epochs` passes over the batches."""

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
        """It ends early when gradients are not finite."""
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
        """Set the gradients of a batch. False: they are not finite, whatever the loss is scaled by."""
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
        """Gradients of the relative distance of a batch, added up over micro-batches and workers."""
        parameters = self._trained.parameters.values()
        for parameter in parameters:
            parameter.grad = torch.zeros_like(parameter)
        for x_BLH, y_BLH in self._student.micro_batches(self._student.hidden_NLH[own], self._target_NLH[own]):
            with torch.enable_grad():
                used = {
                    name: one.to(self._setting.dtype) for name, one in self._trained.weights(step).items()
                }
                output_BLH = self._student.stream.run(self._block, x_BLH, weights=used)
                squares = (output_BLH.float() - y_BLH.float()).square().sum()
                (squares * (self._scale / self._batch_squares)).backward()
        grads = [parameter.grad for parameter in parameters]
        return ranks.add_up(torch.cat([grad.flatten() for grad in grads if grad is not None])) / self._scale

    def _optimizer(self) -> torch.optim.AdamW:
        """Vectors are not decayed."""
        asked = self._setting.recipe.optimizer
        parameters = self._trained.parameters.values()
        groups = [
            {"params": [one for one in parameters if one.dim() > 1], "weight_decay": asked.weight_decay},
            {"params": [one for one in parameters if one.dim() <= 1], "weight_decay": 0.0},
        ]
        return torch.optim.AdamW(groups, betas=asked.betas, eps=asked.epsilon)
