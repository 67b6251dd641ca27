"""How many workers a cluster has room for."""

import pytest

from pipeline.request.resources import Resources
from workers.waiting import room

GIB = 2**30


def node(cpus: int, gpus: int, memory: int, kind: str | None = None) -> dict:
    own = {} if kind is None else {f"accelerator_type:{kind}": 1.0}
    return {"Resources": {"CPU": float(cpus), "GPU": float(gpus), "memory": float(memory * GIB), **own}}


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ({"cpus_per_worker": 4, "memory_per_worker": "8GiB"}, 2 + 8 + 0),
        ({"cpus_per_worker": 1, "memory_per_worker": "48GiB"}, 0 + 2 + 0),
        ({"cpus_per_worker": 1, "gpus_per_worker": 1, "memory_per_worker": "1GiB"}, 1 + 8 + 0),
        ({"cpus_per_worker": 1, "gpus_per_worker": 0.5, "memory_per_worker": "1GiB"}, 2 + 16 + 0),
        ({"cpus_per_worker": 1, "gpus_per_worker": 4, "memory_per_worker": "1GiB"}, 0 + 2 + 0),
        (
            {
                "cpus_per_worker": 1,
                "gpus_per_worker": 1,
                "memory_per_worker": "1GiB",
                "accelerator_type": "A10G",
            },
            1,
        ),
        ({"cpus_per_worker": 1, "gpus_per_worker": 16, "memory_per_worker": "1GiB"}, 0),
    ],
)
def test_a_worker_needs_one_node_that_has_all_it_asks_for(asked: dict, found: int) -> None:
    nodes = [node(8, 1, 32, "A10G"), node(32, 8, 128, "H100"), {"Resources": {}}]
    assert room(Resources.model_validate(asked).of("pruning"), nodes) == found
