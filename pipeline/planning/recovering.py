"""Time and memory of recovery training and of the learning of masks, on the places of a job."""

import math

from pipeline.planning.place import Cost, Place
from pipeline.planning.shape import ModelShape
from pipeline.planning.training import by_block_cost, training_cost
from pipeline.request.resources import Resources
from pipeline.resolve.mask_memory import KEPT_BY_A_BLOCK, mask_memory
from pipeline.resolve.training_memory import TrainingMemory, training_memory
from pipeline.sources.pins import ModelFacts, Pins
from pipeline.spec.mask_training import MaskTraining
from pipeline.spec.patterns import NM, Pattern
from pipeline.spec.recovery import Lora, Reconstruction, Recovery
from pipeline.spec.training_recipe import TrainingRecipe


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
    return _with_memory(cost, needed, shape, recovery, resources, place)


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
    return _with_memory(cost, needed, shape, training, resources, place)


def _with_memory(
    cost: Cost,
    needed: TrainingMemory,
    shape: ModelShape,
    recipe: TrainingRecipe,
    resources: Resources,
    place: Place,
) -> Cost:
    """The cost with the memory of one worker: on its GPU, or beside what is offloaded in the host's memory.
    Logits over the vocabulary are not counted where `needed` does not count activations, so that the sum is
    the least. Activations of training by block may lie in the host's memory."""
    asked = resources.recovery
    activations = needed.activations or _activations(shape, recipe, resources, place)
    whole = needed.total - needed.activations + activations
    if place.machine.memory is None:
        return Cost(cost.seconds, cost.parts, gpu=0, host=place.idle + whole)
    offloaded = activations if _by_block(recipe) else 0
    if asked.offload.optimizer:
        offloaded += needed.optimizer
    if asked.offload.parameters:
        offloaded += needed.weights
    if asked.teacher == "offloaded":
        offloaded += needed.teacher
    gpu = whole - offloaded + place.machine.context
    return Cost(cost.seconds, cost.parts, gpu=gpu, host=place.idle + offloaded)


def _by_block(recipe: TrainingRecipe) -> bool:
    """Tells whether blocks are trained one by one."""
    if isinstance(recipe, MaskTraining):
        return recipe.scope == "block"
    return isinstance(recipe, Recovery) and isinstance(recipe.trains, Reconstruction)


def _activations(shape: ModelShape, recipe: TrainingRecipe, resources: Resources, place: Place) -> int:
    """The bytes that a micro-batch keeps between forward and backward pass (see mask_memory.py)."""
    asked, blocks = resources.recovery, len(shape.blocks)
    tokens = asked.micro_batch_size * recipe.text.sequence_length
    kept = KEPT_BY_A_BLOCK * blocks
    if asked.gradient_checkpointing:
        kept = KEPT_BY_A_BLOCK + blocks
    return place.width * tokens * kept * shape.hidden


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
