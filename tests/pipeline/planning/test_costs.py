"""More work takes longer, and more memory; more workers do not compute longer. And what was measured is what
is expected."""

from collections.abc import Callable
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.architecture.rows import row_for
from pipeline.methods import OneShot
from pipeline.methods.admm import Admm
from pipeline.methods.composed import Composed
from pipeline.methods.dsnot import Dsnot
from pipeline.methods.magnitude import Magnitude
from pipeline.methods.ria import Ria
from pipeline.methods.sparsegpt import SparseGPT
from pipeline.methods.wanda import Wanda
from pipeline.planning.evaluating import perplexity_cost, whole_model_cost
from pipeline.planning.machine import GPUS, Machine, cpus, gpu_of
from pipeline.planning.place import IDLE, Cost, Place, Samples
from pipeline.planning.pruning import Walk, walk_cost
from pipeline.planning.shape import ModelShape, shape_of
from pipeline.planning.storing import BlockTimes, walked
from pipeline.planning.table import MODELS, model
from pipeline.planning.training import by_block_cost, training_cost
from pipeline.request.resources import Offload, TrainingResources
from pipeline.spec.reconstruction import BlockReconstruction
from pipeline.spec.recovery import Recovery
from pipeline.structure.sizes import sizes_of

SMOL = {
    "hidden_size": 576,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "intermediate_size": 1536,
    "vocab_size": 49152,
    "tie_word_embeddings": True,
}
METHODS: tuple[OneShot, ...] = (Magnitude(), Wanda(), Ria(), Dsnot(), SparseGPT(), Admm(), Composed())
times = st.floats(0, 100)
shapes = st.sampled_from([model(name)[0] for name in MODELS])
machines = st.sampled_from([*GPUS, cpus(2), cpus(16)])
places = st.builds(Place, machines, workers=st.integers(1, 64), width=st.sampled_from([2, 4]))
samples = st.builds(Samples, st.integers(1, 300), st.sampled_from([128, 2048, 8192]))
walks = st.builds(
    lambda method, runs, pauses, fits: Walk(
        runs=runs,
        pauses=pauses,
        measures=method.needs,
        method=method,
        reconstruction=BlockReconstruction() if fits else None,
    ),
    st.sampled_from(METHODS),
    st.integers(1, 2),
    st.booleans(),
    st.booleans(),
)


def known(cost: Cost) -> tuple[float, int, int]:
    """Seconds, bytes of a GPU and bytes of the host, which must all be told."""
    assert cost.seconds is not None
    assert cost.gpu is not None
    assert cost.host is not None
    return cost.seconds, cost.gpu, cost.host


def no_less(more: Cost, less: Cost) -> bool:
    return all(a >= b * (1 - 1e-9) for a, b in zip(known(more), known(less), strict=True))


@given(st.lists(st.builds(BlockTimes, times, times, times), min_size=1, max_size=8))
def test_a_walk_takes_as_long_as_its_slowest_part_and_no_longer_than_all_parts(
    blocks: list[BlockTimes],
) -> None:
    found = walked(blocks)
    for part in ("read", "compute", "store"):
        assert found >= sum(getattr(block, part) for block in blocks) * (1 - 1e-9)
    assert found <= sum(block.read + block.compute + block.store for block in blocks) * (1 + 1e-9)


@given(
    st.lists(st.builds(BlockTimes, times, times, times), min_size=1, max_size=8),
    st.data(),
    st.sampled_from(["read", "compute", "store"]),
)
def test_a_slower_part_makes_no_walk_faster(blocks: list[BlockTimes], data: st.DataObject, part: str) -> None:
    slow = data.draw(st.integers(0, len(blocks) - 1))
    slower = [
        BlockTimes(**{**vars(block), part: getattr(block, part) + 1.0}) if i == slow else block
        for i, block in enumerate(blocks)
    ]
    assert walked(slower) >= walked(blocks)


def test_reading_and_storing_hide_behind_computing() -> None:
    assert walked([BlockTimes(1, 10, 2)] * 4) == 1 + 4 * 10 + 2
    assert walked([BlockTimes(10, 1, 2)] * 4) == 4 * 10 + 1 + 2
    assert walked([BlockTimes(1, 2, 10)] * 4) == 1 + 2 + 4 * 10


@given(shapes, samples, places, walks)
def test_more_samples_take_no_less(shape: ModelShape, samples: Samples, place: Place, walk: Walk) -> None:
    cost = walk_cost(shape, samples, place, walk)
    more = walk_cost(shape, Samples(samples.count + 7, samples.length), place, walk)
    longer = walk_cost(shape, Samples(samples.count, samples.length + 128), place, walk)
    assert no_less(longer, cost)
    if walk.reconstruction is None:  # its steps of an epoch follow from how samples divide
        assert no_less(more, cost)


@given(shapes, samples, places, walks)
def test_more_workers_compute_no_longer(
    shape: ModelShape, samples: Samples, place: Place, walk: Walk
) -> None:
    cost = walk_cost(shape, samples, place, walk)
    more = walk_cost(shape, samples, Place(place.machine, place.workers + 1, place.width), walk)
    for part in ("forward", "statistics", "solve"):
        assert more.parts.get(part, 0) <= cost.parts.get(part, 0) * (1 + 1e-9)
    assert known(more)[1:] <= known(cost)[1:]


@given(samples, places, st.sampled_from(METHODS), st.integers(1, 2))
def test_a_larger_model_takes_longer_and_more(
    samples: Samples, place: Place, method: OneShot, runs: int
) -> None:
    walk = Walk(runs=runs, measures=method.needs, method=method)
    costs = [walk_cost(model(name)[0], samples, place, walk) for name in ("7B", "13B", "70B", "405B")]
    for small, large in pairwise(costs):
        assert no_less(large, small)
    scored = [perplexity_cost(model(name)[0], samples, place) for name in ("7B", "13B", "405B")]
    for small, large in pairwise(scored):
        assert no_less(large, small)


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.kind)
def test_a_solver_costs_more_than_a_ranking(method: OneShot) -> None:
    shape, _ = model("7B")
    place = Place(GPUS[-1], width=2)

    def seconds(one: OneShot) -> float:
        return known(walk_cost(shape, Samples(128, 2048), place, Walk(measures=one.needs, method=one)))[0]

    assert seconds(method) >= seconds(Magnitude())


@given(st.integers(1, 200) | st.none())
def test_a_gpu_stands_for_those_of_its_size(gib: int | None) -> None:
    chosen = gpu_of(None if gib is None else gib * 2**30)
    assert chosen in GPUS
    if gib is not None and gib <= 141:
        assert chosen.memory is not None
        assert chosen.memory >= gib * 2**30


def recipe(**changed: object) -> Recovery:
    text = {"source": "file:/text.txt", "sequence_length": 2048}
    return Recovery.model_validate(
        {"text": text, "steps": 100, "global_batch_size": 256, "precision": "bfloat16", **changed}
    )


def trained(shape: ModelShape, steps: int, split: TrainingResources, place: Place, *, taught: bool) -> float:
    found = training_cost(
        shape,
        recipe(steps=steps),
        split,
        place,
        trained=shape.weights,
        teacher=shape if taught else None,
    )
    assert found.seconds is not None
    return found.seconds


splits = st.builds(
    TrainingResources,
    zero_stage=st.sampled_from([1, 2, 3]),
    micro_batch_size=st.sampled_from([1, 2, 4]),
    gradient_checkpointing=st.booleans(),
    offload=st.builds(Offload, optimizer=st.booleans()),
)


@given(shapes, st.integers(30, 1000), splits, places, st.booleans())
def test_training_longer_or_with_a_teacher_takes_no_less(
    shape: ModelShape, steps: int, split: TrainingResources, place: Place, taught: bool
) -> None:
    cost = trained(shape, steps, split, place, taught=taught)
    assert trained(shape, steps + 50, split, place, taught=taught) > cost
    assert trained(shape, steps, split, place, taught=True) >= cost
    again = split.model_copy(update={"gradient_checkpointing": True})
    assert trained(shape, steps, again, place, taught=taught) >= cost


@given(shapes, places, st.integers(1, 10))
def test_more_epochs_by_block_take_longer(shape: ModelShape, place: Place, epochs: int) -> None:
    def seconds(count: int) -> float:
        found = by_block_cost(shape, recipe(), place, epochs=count).seconds
        assert found is not None
        return found

    assert seconds(epochs + 1) > seconds(epochs)


@given(shapes, st.integers(1, 8))
def test_a_whole_model_is_spread_over_the_gpus_of_a_worker(shape: ModelShape, gpus: int) -> None:
    place = Place(GPUS[-1], width=2)
    here, more = (whole_model_cost(shape, place, gpus=count).gpu for count in (gpus, gpus + 1))
    assert here is not None
    assert more is not None
    assert here * gpus >= 2 * shape.weights
    assert more < here
    assert whole_model_cost(shape, Place(cpus(2)), gpus=0).host == 4 * shape.weights + IDLE


@pytest.fixture(name="measured")
def smol() -> Callable[[Walk], Cost]:
    """The job of docs/performance.md: SmolLM2-135M, 16 x 512 tokens on two cores."""
    row = row_for("llama")
    shape = shape_of(row, SMOL, sizes_of(row, SMOL))
    machine: Machine = cpus(2)
    return lambda walk: walk_cost(shape, Samples(16, 512), Place(machine), walk)


@pytest.mark.parametrize(
    ("walk", "seconds", "megabytes"),
    [
        (Walk(runs=2, measures=Wanda().needs, method=Wanda()), 18.6, 129),
        (Walk(runs=1, pauses=True, measures=Wanda().needs, method=Wanda()), 16.1, 235),
    ],
    ids=["pruned", "linear"],
)
def test_the_measured_jobs_are_expected(
    measured: Callable[[Walk], Cost], walk: Walk, seconds: float, megabytes: float
) -> None:
    found, gpu, host = known(measured(walk))
    assert gpu == 0
    assert found == pytest.approx(seconds, rel=0.35)
    assert (host - IDLE) / 1e6 == pytest.approx(megabytes, rel=0.35)
