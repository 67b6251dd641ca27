"""Trains a pruned block to reproduce the outputs of the dense block, with its zeros held.

Every token counts the same: its squared distance is divided by the target's square. Otherwise the fit would
only serve the first tokens of the samples, whose hidden states are thousands of times larger than the others'
("massive activations", arXiv 2402.17762).

Gradients are computed per sample and added up along a binary tree over the samples of a step (statistics.py),
and every worker takes the same steps, so that any number of workers fits to the same bits.

Shape legend: L tokens of one sample, H hidden size, T steps.
"""

import math
from collections.abc import Callable, Collection, Mapping, Sequence

import torch
from torch import Tensor

from pipeline.blocks.activations import Activations
from pipeline.checkpoint.stream import BlockStream
from pipeline.errors import NumericalError
from pipeline.spec.reconstruction import BlockReconstruction, batches, steps_of
from pipeline.tensor.devices import read_together
from pipeline.tensor.statistics import Gram, pushed

BETAS, EPSILON = (0.9, 0.999), 1e-8
TINY = torch.finfo(torch.float32).tiny

Run = Callable[[Mapping[str, Tensor], Tensor], Tensor]  # weights by name, hidden states → the block's output


class BlockFitter:
    """`tensors`: the pruned block, by names inside it. `keep`: bool, oriented like the tensors, for those
    that were pruned. `run`: runs the block with other weights. `buffers`: tensors that are not trained."""

    def __init__(
        self,
        tensors: Mapping[str, Tensor],
        keep: Mapping[str, Tensor],
        run: Run,
        spec: BlockReconstruction,
        *,
        samples: int,
        dtype: torch.dtype,
        device: torch.device,
        buffers: Collection[str] = (),
    ) -> None:
        self._stored = tensors
        self._run = run
        self._spec = spec
        self._dtype = dtype
        self._device = device
        self._steps = steps_of(spec, samples=samples)
        self._weights = {
            name: tensor.to(device, torch.float32, copy=True)
            for name, tensor in tensors.items()
            if tensor.is_floating_point() and name not in buffers
        }
        self._keep = {name: one.to(device) for name, one in keep.items()}
        self._first = {name: torch.zeros_like(weight) for name, weight in self._weights.items()}
        self._second = {name: torch.zeros_like(weight) for name, weight in self._weights.items()}
        self._done = 0

    def distance(self, hidden_1LH: Tensor, target_1LH: Tensor) -> Tensor:
        """The distance of one sample, []: the mean over its tokens of the squared distance divided by the
        target's square."""
        return self._distance(self._weights, hidden_1LH, target_1LH)

    def gradient(self, hidden_1LH: Tensor, target_1LH: Tensor) -> Tensor:
        """The gradient of one sample's distance, with all weights flattened into one vector."""
        leaves = {name: weight.requires_grad_() for name, weight in self._weights.items()}
        with torch.enable_grad():
            distance = self._distance(leaves, hidden_1LH, target_1LH)
            grads = torch.autograd.grad(distance, list(leaves.values()), allow_unused=True)
        rows = [
            torch.zeros_like(weight) if grad is None else grad
            for grad, weight in zip(grads, leaves.values(), strict=True)
        ]
        for weight in leaves.values():
            weight.requires_grad = False
        return torch.cat([row.flatten() for row in rows])

    def step(self, gradient: Tensor) -> None:
        """Takes one step of Adam with the sum of all workers' gradients. Raises NumericalError when it is not
        finite."""
        gradient = gradient.to(self._device)
        if not torch.isfinite(gradient).all():
            raise NumericalError(
                "a gradient of reconstruction is not finite; lower learning_rate, or set compute_dtype to "
                "float32",
                "spec.prune.reconstruction.learning_rate",
            )
        rate = self._spec.learning_rate * (1 + math.cos(math.pi * self._done / self._steps)) / 2
        self._done += 1
        short, long = (1 - beta**self._done for beta in BETAS)
        parts = gradient.split([weight.numel() for weight in self._weights.values()])
        for (name, weight), part in zip(self._weights.items(), parts, strict=True):
            grad = part.view_as(weight)
            if name in self._keep:
                grad = grad * self._keep[name]
            self._first[name].lerp_(grad, 1 - BETAS[0])
            self._second[name].mul_(BETAS[1]).addcmul_(grad, grad, value=1 - BETAS[1])
            size = (self._second[name] / long).sqrt_().add_(EPSILON)
            weight.addcdiv_(self._first[name], size, value=-rate / short)

    def _distance(self, weights: Mapping[str, Tensor], hidden_1LH: Tensor, target_1LH: Tensor) -> Tensor:
        used = {name: weight.to(self._dtype) for name, weight in weights.items()}
        target_1LH = target_1LH.float()
        squares_1L = (self._run(used, hidden_1LH).float() - target_1LH).square().sum(dim=-1)
        return (squares_1L / target_1LH.square().sum(dim=-1).clamp(min=TINY)).mean()

    def tensors(self) -> dict[str, Tensor]:
        """Returns all tensors of the block in their stored types."""
        fitted = {name: weight.to(self._stored[name].dtype).cpu() for name, weight in self._weights.items()}
        return {**self._stored, **fitted}


class Reconstructor:
    """One worker's part in fitting the blocks one after another. `targets`: the dense model's activations of
    its samples, which this class advances; they start as the inputs of block 0. `first`: number of its first
    sample."""

    def __init__(
        self,
        stream: BlockStream,
        targets: Activations,
        spec: BlockReconstruction,
        *,
        first: int,
        samples: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        self._stream = stream
        self._targets = targets
        self._spec = spec
        self._first = first
        self._samples = samples
        self._dtype = dtype
        self._device = device
        self._fitter: BlockFitter | None = None

    def advance(self, block: int) -> None:
        """Runs the loaded block, dense, on the dense model's activations: its outputs are the targets."""
        for i, target in enumerate(self._targets):
            self._targets[i] = self._stream.run(block, target)

    def begin(self, block: int, tensors: Mapping[str, Tensor], keep: Mapping[str, Tensor]) -> None:
        """Starts to fit a loaded block after pruning."""

        def run(weights: Mapping[str, Tensor], hidden_1LH: Tensor) -> Tensor:
            return self._stream.hidden(self._stream.run(block, hidden_1LH, weights=weights))

        self._fitter = BlockFitter(
            tensors,
            keep,
            run,
            self._spec,
            samples=self._samples,
            dtype=self._dtype,
            device=self._device,
            buffers=self._stream.buffers(block),
        )

    @property
    def fitter(self) -> BlockFitter:
        """The fitter of the current block."""
        assert self._fitter is not None, "begin(block) comes first"
        return self._fitter

    def distances(self, hidden: Sequence[Tensor]) -> list[float]:
        """Returns the distance of each sample: see BlockFitter.distance."""
        pairs = zip(hidden, self._targets, strict=True)
        return read_together(
            [self.fitter.distance(one, self._stream.hidden(target)) for one, target in pairs]
        )

    def gradient(self, step: int, hidden: Sequence[Tensor]) -> Gram:
        """Returns the contribution of this worker's samples to the gradient of a step."""
        steps = batches(self._samples, self._spec.samples_per_step)
        parts: Gram = {}
        for place, sample in enumerate(steps[step % len(steps)]):
            own = sample - self._first
            if 0 <= own < len(hidden):
                gradient = self.fitter.gradient(hidden[own], self._stream.hidden(self._targets[own]))
                parts = pushed(parts, (0, place), gradient)
        return parts

    def end(self) -> dict[str, Tensor]:
        """Returns the fitted tensors, and frees the memory of the fit."""
        tensors = self.fitter.tensors()
        self._fitter = None
        return tensors
