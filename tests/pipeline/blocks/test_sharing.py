"""Work is shared out by its cost, idle workers change nothing, and what is exchanged frees memory."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.allocations import Uniform
from pipeline.blocks.local import LocalCrew
from pipeline.blocks.sharing import ranking_cost, shared_by_cost, solving_cost
from pipeline.blocks.worker import SweepWorker
from pipeline.methods.sparsegpt import SparseGPT
from pipeline.spec.patterns import Unstructured
from pipeline.spec.reconstruction import BlockReconstruction
from pipeline.tensor.statistics import LEAVES
from tests.checkpoints import imported
from tests.models import tiny_checkpoint
from tests.pipeline.blocks.test_sweep import samples
from tests.sweeping import prune_in_process

pytestmark = pytest.mark.usefixtures("one_thread", "no_gradients")


@given(costs=st.lists(st.integers(0, 1000), max_size=40), workers=st.integers(1, 9))
def test_every_item_has_one_worker_and_nobody_has_much_more_than_the_best_share(
    costs: list[int], workers: int
) -> None:
    shares = shared_by_cost([float(cost) for cost in costs], workers)
    assert len(shares) == workers
    assert sorted(item for share in shares for item in share) == list(range(len(costs)))
    loads = [sum(costs[item] for item in share) for share in shares]
    least = max(sum(costs) / workers, max(costs, default=0))  # no way of sharing is better
    assert max(loads, default=0) <= 2 * least


def test_the_groups_of_a_llama_block_are_balanced_between_two_workers() -> None:
    """The down projection alone is two thirds of the work; round robin would give its worker more."""
    wide, tall, back = (11008, 4096), (4096, 4096), (4096, 11008)
    groups = [[tall] * 3, [tall], [wide] * 2, [back]]
    assert shared_by_cost([solving_cost(group) for group in groups], 2) == [[3], [0, 1, 2]]
    assert ranking_cost(wide) == ranking_cost(back) == 11008 * 4096


@pytest.mark.slow
@pytest.mark.parametrize("propagation", ["pruned", "linear", "dense"])
def test_more_workers_than_leaves_give_the_bits_of_one(propagation, tmp_path: Path) -> None:
    content, checkpoint = imported(tiny_checkpoint("llama", tmp_path / "model"), tmp_path / "store")
    runs = [
        prune_in_process(
            content,
            checkpoint,
            samples(),
            method=SparseGPT(),
            allocation=Uniform(),
            pattern=Unstructured(sparsity=0.5),
            propagation=propagation,
            reconstruction=BlockReconstruction(epochs=1, samples_per_step=4),
            workers=workers,
        )
        for workers in (1, LEAVES + 2)
    ]
    assert runs[0].blocks == runs[1].blocks


def test_a_gram_is_freed_where_it_was_measured(tmp_path: Path) -> None:
    content, checkpoint = imported(tiny_checkpoint("llama", tmp_path / "model"), tmp_path / "store")
    crew = LocalCrew(content, checkpoint, samples(), workers=2)
    crew.tell(SweepWorker.load, 0)
    crew.measure(advance=False, needs=frozenset({"hessian"}))
    crew.sum_up(SweepWorker.gram, SweepWorker.take_gram, [1], 0)
    with pytest.raises(KeyError):
        crew.workers[0].gram(0)
    crew.workers[1].store_hessian(0)
    with pytest.raises(KeyError):
        crew.workers[1].store_hessian(0)
    assert crew.workers[1].stored_hessian(0, 0).path.endswith("safetensors")
