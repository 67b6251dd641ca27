"""Activations take half of what a worker declares, on the host and on its GPU."""

import pytest
import torch

from pipeline.request.parts import WorkerShare
from pipeline.request.resources import Resources
from tests.simulated_device import GPU, simulated_gpu
from workers.budget import activation_budget

GIB = 2**30


def share(**asked) -> WorkerShare:
    return Resources(**asked).of("pruning")


def test_on_a_cpu_they_take_half_of_the_memory_that_is_left() -> None:
    budget = activation_budget(share(memory_per_worker="4GiB"), torch.device("cpu"), used=GIB)
    assert (budget.left, budget.on_gpu) == (3 * GIB // 2, 0)
    assert activation_budget(share(), torch.device("cpu"), used=5 * GIB).left == 0


@pytest.mark.parametrize(
    ("asked", "on_gpu", "limits"),
    [
        ({"gpus_per_worker": 1}, 4 * GIB, []),
        ({"gpus_per_worker": 0.25}, GIB, []),
        ({"gpus_per_worker": 2}, 4 * GIB, []),
        ({"gpus_per_worker": 1, "memory_per_gpu": "6GiB"}, 3 * GIB, [0.75]),
        ({"gpus_per_worker": 1, "memory_per_gpu": "80GiB"}, 4 * GIB, [1.0]),
    ],
)
def test_on_a_gpu_they_take_half_of_what_is_declared_or_free(asked, on_gpu: int, limits: list[float]) -> None:
    with simulated_gpu(total=8 * GIB) as gpu:
        budget = activation_budget(share(memory_per_worker="4GiB", **asked), GPU, used=0)
    assert (budget.left, budget.on_gpu) == (2 * GIB, on_gpu)
    assert gpu.fractions == limits
