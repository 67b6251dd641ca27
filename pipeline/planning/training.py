"""Time of training, step by step.

With A weights that a token meets, T tokens of a worker in a step, P weights and W workers, a step takes the
longer of computing and exchanging, then the optimizer:

    computing    6·A·T FLOP and attention's; 8·A·T with gradient checkpointing; 2·A·T more for a teacher
    exchanging   (W - 1)/W · w·P bytes, twice at ZeRO stages 1 and 2 (gradients reduced, weights gathered); at
                 stage 3 once, and twice more for each micro-batch
    optimizer    28 bytes of each trained weight of the worker; if it is offloaded, in the host's memory, and
                 gradients and weights pass over the bus

Checkpoints of training (14 bytes a trained weight) are written by all nodes side by side.
"""

import math

from pipeline.planning.machine import GPUS_PER_NODE
from pipeline.planning.place import Cost, Place, Samples
from pipeline.planning.shape import ModelShape
from pipeline.planning.storing import reading, storing
from pipeline.request.resources import TrainingResources
from pipeline.spec.training_recipe import TrainingRecipe

OPTIMIZER_BYTES, CHECKPOINT_BYTES = 28, 14
HOST_BANDWIDTH = 10e9  # bytes a second of the host's memory for each worker


def training_cost(
    shape: ModelShape,
    recipe: TrainingRecipe,
    asked: TrainingResources,
    place: Place,
    *,
    trained: int,
    teacher: ModelShape | None,
) -> Cost:
    """The seconds of all steps. `trained`: the number of trained numbers. Memory: see pipeline/resolve."""
    length, steps = recipe.text.sequence_length, recipe.total_steps
    batch = Samples(place.share(recipe.global_batch_size), length)
    rate = place.machine.training(place.width)
    compute = _flop(shape, batch, again=asked.gradient_checkpointing) / rate
    if teacher is not None:
        compute += _forward(teacher, batch) / rate
    exchange = _exchange(shape, asked, place, trained=trained, micro_batches=batch.count)
    optimizer = _optimizer(asked, place, trained=trained)
    nodes = -(-place.workers // GPUS_PER_NODE)
    saves = -(-steps // asked.save_every_steps)
    validations = steps // recipe.validate_every_steps + 2
    held_out = Samples(place.share(recipe.text.validation_sequences), length)
    parts = {
        "read": reading(shape.weights * place.stored),
        "compute": steps * compute,
        "exchange": steps * exchange,
        "optimizer": steps * optimizer,
        "validation": validations * _forward(shape, held_out) / rate,
        "store": saves * storing(CHECKPOINT_BYTES * trained / nodes) + storing(shape.weights * place.stored),
    }
    beside = sum(one for name, one in parts.items() if name not in ("compute", "exchange"))
    return Cost(
        seconds=max(parts["compute"], parts["exchange"]) + beside,
        parts={name: one for name, one in parts.items() if one},
    )


def by_block_cost(shape: ModelShape, recipe: TrainingRecipe, place: Place, *, epochs: int) -> Cost:
    """The seconds of a training that fits one block after the other to what the dense one gives: its epochs,
    and one pass of both models."""
    sequences = Samples(place.share(recipe.sequences), recipe.text.sequence_length)
    once = _forward(shape, sequences) / place.machine.training(place.width)
    parts = {
        "read": 2 * reading(shape.weights * place.stored),
        "compute": (3 * epochs + 2) * once,
        "store": storing(shape.weights * place.stored),
    }
    return Cost(seconds=sum(parts.values()), parts=parts)


def _forward(shape: ModelShape, samples: Samples) -> float:
    head = 2.0 * shape.embedding * samples.tokens
    return head + sum(block.flop(samples.tokens, length=samples.length) for block in shape.blocks)


def _flop(shape: ModelShape, samples: Samples, *, again: bool) -> float:
    return (4 if again else 3) * _forward(shape, samples)


def _exchange(
    shape: ModelShape, asked: TrainingResources, place: Place, *, trained: int, micro_batches: int
) -> float:
    workers = place.workers
    if workers == 1:
        return 0.0
    micro = math.ceil(micro_batches / asked.micro_batch)
    gathered = 2 * micro * shape.weights if asked.zero_stage == 3 else trained
    size = (workers - 1) / workers * place.width * (trained + gathered)
    return size / place.machine.link(workers)


def _optimizer(asked: TrainingResources, place: Place, *, trained: int) -> float:
    own = trained / place.workers
    if not asked.offload.optimizer:
        return OPTIMIZER_BYTES * own / place.machine.bandwidth
    return OPTIMIZER_BYTES * own / HOST_BANDWIDTH + 2 * place.width * own / place.machine.upload
