"""Time and memory of a walk over the blocks that measures or prunes them.

For each block: it is read and verified; its samples run through it; statistics are added up; methods decide
linears, which are spread over the workers; grams and decisions pass between workers; and it is stored.
"""

import math
from dataclasses import dataclass

from pipeline.methods import OneShot
from pipeline.planning.place import NONE, Cost, Place, Samples
from pipeline.planning.shape import BlockShape, ModelShape
from pipeline.planning.solving import FLOAT, changes_values, grams, solver_memory, solving
from pipeline.planning.storing import PER_BLOCK, SNAPSHOT_SECONDS, BlockTimes, reading, storing, walked
from pipeline.spec.reconstruction import BlockReconstruction, steps_of
from pipeline.tensor.needs import Needs

KERNELS = 60  # of a block's forward pass of one sample
STATISTIC_PASSES = 3  # over the inputs of linears, for norms, means and channel scores
ADAM_PASSES = 7  # reads and writes of a float32 vector: weights, gradients and two moments


@dataclass(frozen=True)
class Walk:
    """What is done with each block. `runs`: how often each sample passes through it. `pauses`: the samples
    wait in their forward passes while linears are decided. `measures`: statistics that are gathered in one of
    the runs. `method`: the one that decides the linears, if any does."""

    runs: int = 1
    pauses: bool = False
    measures: Needs = frozenset()
    method: OneShot | None = None
    reconstruction: BlockReconstruction | None = None


def walk_cost(shape: ModelShape, samples: Samples, place: Place, walk: Walk) -> Cost:
    """The cost of the walk over all blocks. Each shape of a block is counted once."""
    if not walk.runs and walk.reconstruction is None:
        samples = NONE
    known = {block: _block(shape, block, samples, place, walk) for block in dict.fromkeys(shape.blocks)}
    times = [known[block][0] for block in shape.blocks]
    parts: dict[str, float] = {}
    for block in shape.blocks:
        for name, seconds in known[block][1].items():
            parts[name] = parts.get(name, 0.0) + seconds
    device = max(_memory(shape, block, samples, place, walk) for block in known)
    device = max(device, shape.embedding * place.width)
    held = place.share(samples.count) * samples.length * shape.state * place.width
    largest = max(block.weights for block in known)
    gpu = place.machine.memory is not None
    return Cost(
        seconds=walked(times),
        parts={name: seconds for name, seconds in parts.items() if seconds},
        gpu=device + place.machine.context if gpu else 0,
        host=place.idle + held + (2 * largest * place.stored if gpu else device),
    )


def _block(
    shape: ModelShape, block: BlockShape, samples: Samples, place: Place, walk: Walk
) -> tuple[BlockTimes, dict[str, float]]:
    parts = {
        "read": reading(block.weights * place.stored) + block.weights * place.stored / place.machine.upload,
        "forward": walk.runs * _forward(block, samples, place),
        "statistics": _statistics(block, samples, place, walk.measures),
        "solve": _solve(block, place, walk.method),
        "exchange": _exchange(block, place, walk),
        "fit": _fit(block, samples, place, walk.reconstruction),
        "orchestration": PER_BLOCK,
    }
    compute = sum(seconds for name, seconds in parts.items() if name != "read")
    snapshot = storing(samples.tokens * shape.state * place.width)
    parts["store"] = min(1.0, compute / SNAPSHOT_SECONDS) * snapshot
    if walk.method is not None:
        parts["store"] += storing(block.weights * (place.stored + 1 / 8))
    return BlockTimes(parts["read"], compute, parts["store"]), parts


def _forward(block: BlockShape, samples: Samples, place: Place) -> float:
    """The seconds in which each worker runs its samples through the block, one at a time."""
    flop = block.flop(samples.length, length=samples.length)
    one = place.computed(flop, moved=block.weights * place.width, kernels=KERNELS)
    return place.share(samples.count) * one


def _statistics(block: BlockShape, samples: Samples, place: Place, needs: Needs) -> float:
    if not needs:
        return 0.0
    tokens = place.share(samples.count) * samples.length
    numbers = sum(group.in_features * group.share * group.count for group in block.groups) * tokens
    seconds = STATISTIC_PASSES * numbers * place.width / place.machine.bandwidth
    if "hessian" in needs:
        squares = sum(group.in_features**2 * group.share * group.count for group in block.groups)
        seconds += 2 * squares * tokens / place.machine.blocks32
    if "expert_gain" in needs:  # every token passes through its experts once more
        experts = sum(group.weights * group.share * group.count for group in block.groups if group.count > 1)
        flop = 2 * experts * samples.length
        seconds += place.share(samples.count) * place.computed(flop, kernels=KERNELS if experts else 0)
    return seconds


def _solve(block: BlockShape, place: Place, method: OneShot | None) -> float:
    if method is None:
        return 0.0
    costs = [solving(method, group, place.machine) for group in block.groups for _ in range(group.count)]
    return place.spread(costs)


def _exchange(block: BlockShape, place: Place, walk: Walk) -> float:
    """The seconds in which grams are reduced along a tree, and decisions sent to all workers."""
    if place.workers == 1:
        return 0.0
    size = 0.0
    if "hessian" in walk.measures:
        size += grams(block) * math.ceil(math.log2(place.workers))
    if walk.method is not None:
        size += block.weights * (1 / 8 + (place.width if changes_values(walk.method) else 0))
    return size / place.machine.link(place.workers)


def _fit(block: BlockShape, samples: Samples, place: Place, spec: BlockReconstruction | None) -> float:
    """The seconds of reconstruction: passes of the dense model, the distances before and after, and the
    steps, each with a backward pass that costs two forward passes."""
    if spec is None or not samples.count:
        return 0.0
    once = Samples(1, samples.length)
    steps = steps_of(spec, samples=samples.count)
    size = FLOAT * block.weights
    gradients = (
        3
        * place.share(min(spec.samples_per_step, samples.count))
        * _forward(block, once, Place(place.machine, width=place.width))
    )
    update = ADAM_PASSES * size / place.machine.bandwidth
    exchanged = 2 * size / place.machine.link(place.workers) if place.workers > 1 else 0.0
    return 3 * _forward(block, samples, place) + steps * (gradients + update + exchanged)


def _memory(shape: ModelShape, block: BlockShape, samples: Samples, place: Place, walk: Walk) -> int:
    """The highest bytes on the device: the block, twice while its new weights are chosen, and what runs,
    measuring, solving or fitting takes. Activations between blocks may lie elsewhere and do not count."""
    weights = block.weights * place.width
    inner = sum(
        (group.in_features + sum(group.out_features)) * group.share * group.count for group in block.groups
    )
    running = math.ceil(samples.length * inner * place.width) if samples.count else 0
    if "expert_gain" in walk.measures:  # a token's copies for each of its experts, and their outputs
        experts = sum(
            group.in_features * group.share * group.count for group in block.groups if group.count > 1
        )
        running += math.ceil(2 * samples.length * experts * place.width) if samples.count else 0
    if walk.pauses:  # every sample holds its input of the linears, and twice its hidden states
        held = block.widest + 2 * shape.state
        running += place.share(samples.count) * samples.length * held * place.width
    measured = grams(block) if "hessian" in walk.measures else 0
    if walk.method is None:
        return weights + measured + running
    chosen = block.weights * (1 + place.width)
    fitted = 4 * FLOAT * block.weights + 3 * running if walk.reconstruction is not None else 0
    return weights + chosen + max(measured + max(running, solver_memory(walk.method, block)), fitted)
