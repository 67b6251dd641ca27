"""Time and memory of recovery training and of the learning of masks, on the places of a job."""

import math

from pipeline.planning.place import Cost, Place
from pipeline.planning.shape import ModelShape
from pipeline.planning.training import by_block_cost, training_cost
from pipeline.request.resources import Resources
from pipeline.resolve.mask_memory import mask_memory
from pipeline.resolve.training_memory import TrainingMemory, training_memory
from pipeline.sources.pins import ModelFacts, Pins
from pipeline.spec.mask_training import MaskTraining
from pipeline.spec.patterns import NM, Pattern
from pipeline.spec.recovery import Lora, Reconstruction, Recovery


def recovery_cost(
    shape: ModelShape,
    recovery: Recovery,
    resources: Resources,
    place: Place,
    *,
    pins: Pins,
    sparse: bool,
    teacher: ModelShape | None,
) -> Cost:
    """The cost of recovery. Memory is told where the files of the model tell how many weights it has."""
    if isinstance(recovery.trains, Reconstruction):
        cost = by_block_cost(shape, recovery, place, epochs=recovery.trains.epochs)
    else:
        trained = _trained(shape, recovery)
        asked = resources.recovery
        cost = training_cost(shape, recovery, asked, place, trained=trained, teacher=teacher)
    if pins.facts.parameters is None:
        return cost
    needed = training_memory(recovery, resources, pins=pins, sparse=sparse)
    return _with_memory(cost, needed, place, by_block=isinstance(recovery.trains, Reconstruction))


def learning_cost(
    shape: ModelShape,
    training: MaskTraining,
    pattern: Pattern,
    resources: Resources,
    place: Place,
    *,
    facts: ModelFacts,
) -> Cost:
    """The cost of learning masks; what is trained are the logits of candidates."""
    assert isinstance(pattern, NM), "masks are learned for N:M only"
    prunable = sum(block.weights for block in shape.blocks)
    logits = prunable * math.comb(pattern.group, pattern.keep) // pattern.group
    if training.scope == "block":
        cost = by_block_cost(shape, training, place, epochs=training.epochs)
    else:
        teacher = shape if training.needs_teacher else None
        cost = training_cost(shape, training, resources.recovery, place, trained=logits, teacher=teacher)
    if facts.parameters is None:
        return cost
    needed = mask_memory(training, pattern, resources, facts=facts)
    return _with_memory(cost, needed, place, by_block=training.scope == "block")


def _with_memory(cost: Cost, needed: TrainingMemory, place: Place, *, by_block: bool) -> Cost:
    """The cost with the memory of one worker: on its GPU, and what is offloaded in the host's memory.
    Activations of training by block may lie in the host's memory, so the GPU's is the least."""
    if place.machine.memory is None:
        return Cost(cost.seconds, cost.parts, gpu=0, host=place.idle + needed.total)
    offloaded = needed.host + (needed.activations if by_block else 0)
    gpu = needed.total - offloaded + place.machine.context
    return Cost(cost.seconds, cost.parts, gpu=gpu, host=place.idle + offloaded)


def _trained(shape: ModelShape, recovery: Recovery) -> int:
    """The number of trained weights: all, those of adapters on every prunable linear, or vectors."""
    if isinstance(recovery.trains, Lora):
        ends = sum(
            group.count * (group.in_features + out)
            for block in shape.blocks
            for group in block.groups
            for out in group.out_features
        )
        return recovery.trains.rank * ends
    if recovery.trains.kind == "full":
        return shape.weights
    return 2 * shape.hidden * len(shape.blocks)
