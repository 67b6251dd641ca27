"""Reconstruction, the last step of pruning a block."""

import itertools

from pydantic import Field

from pipeline.canonical import Frozen


class BlockReconstruction(Frozen):
    """Train a block's kept weights, norms and biases after pruning, so that its output on the pruned model's
    activations approaches the dense block's output on the dense model's activations.

    Adam minimises the squared distance for `epochs` passes over the calibration samples. A step takes
    `samples_per_step` of them, spread evenly over all. `learning_rate` falls along a cosine to 0. Zeros stay
    zero, and a block whose output did not come nearer stays as it was pruned.
    """

    epochs: int = Field(default=10, ge=1, le=1000)
    samples_per_step: int = Field(default=8, ge=1, le=32)
    learning_rate: float = Field(default=2e-4, gt=0, le=1)


def steps_of(spec: BlockReconstruction, *, samples: int) -> int:
    """The number of steps per block."""
    return spec.epochs * len(batches(samples, spec.samples_per_step))


def batches(samples: int, size: int) -> list[tuple[int, ...]]:
    """The samples of each step of an epoch, in order: one from each of `size` equal parts of all."""
    size = min(size, samples)
    edges = [i * samples // size for i in range(size + 1)]
    longest = max(end - first for first, end in itertools.pairwise(edges))
    return [
        tuple(first + step % (end - first) for first, end in itertools.pairwise(edges))
        for step in range(longest)
    ]
