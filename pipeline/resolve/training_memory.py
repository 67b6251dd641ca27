"""The least memory that a worker of recovery training needs, from the sizes of model and teacher alone.

The usual account (Rajbhandari et al., arXiv 1910.02054), with P weights, T of them trained, W workers, and w
bytes of a weight in `precision`:

    weights     w·P                   over the workers at ZeRO stage 3
    gradients   w·T                   over the workers from stage 2 on
    optimizer   12·T                  master weights and two moments in float32, over the workers
    keep        P                     a byte a weight, where zeros are held
    teacher     w·P of the teacher    over the workers unless it is `whole`

Activations come on top: they follow micro_batch_size, sequence_length and gradient_checkpointing.
"""

from dataclasses import dataclass

from pipeline.architecture.rows import row_for
from pipeline.request.resources import Resources
from pipeline.sources.pins import TEACHER, ModelFacts, Pins
from pipeline.spec.model import Dtype
from pipeline.spec.recovery import Lora, Recovery

WIDTH: dict[Dtype, int] = {"float32": 4, "bfloat16": 2, "float16": 2}
OPTIMIZER_WIDTH = 12


@dataclass(frozen=True)
class TrainingMemory:
    """Bytes of one worker. `masked`, `logits`, `step` and `libraries` belong to mask learning
    (mask_memory.py). `activations` belongs to mask learning, and to reconstruction, which works block by
    block and holds the activations of all its sequences."""

    weights: int
    gradients: int
    optimizer: int
    keep: int = 0
    teacher: int = 0
    masked: int = 0
    logits: int = 0
    step: int = 0
    activations: int = 0
    libraries: int = 0

    @property
    def total(self) -> int:
        """The sum of all parts in bytes."""
        return sum(vars(self).values())

    def parts(self) -> dict[str, int]:
        """The parts that are not zero, by name."""
        return {name: size for name, size in vars(self).items() if size}


def training_memory(recovery: Recovery, resources: Resources, *, pins: Pins, sparse: bool) -> TrainingMemory:
    """The memory of each worker. `sparse`: True if zeros are held. Sizes that the model's config does not
    give count as zero."""
    facts = pins.facts
    parameters = facts.parameters or 0
    if recovery.trains.kind == "reconstruction":
        return _of_reconstruction(recovery, resources, facts=facts)
    workers, asked = resources.training_workers, resources.recovery
    width = WIDTH[recovery.precision]
    trained = _trained(recovery, facts)
    teacher = width * _taught_by(recovery, pins)
    return TrainingMemory(
        weights=share(width * parameters, workers if asked.zero_stage == 3 else 1),
        gradients=share(width * trained, workers if asked.zero_stage >= 2 else 1),
        optimizer=share(OPTIMIZER_WIDTH * trained, workers),
        keep=parameters if sparse else 0,
        teacher=share(teacher, 1 if asked.teacher == "whole" else workers),
    )


def _of_reconstruction(recovery: Recovery, resources: Resources, *, facts: ModelFacts) -> TrainingMemory:
    """The memory for a block of both models, and for both models' activations of this worker's sequences."""
    width = WIDTH[recovery.precision]
    block = share(facts.parameters or 0, facts.blocks)
    sequences = share(recovery.sequences, resources.training_workers)
    tokens = sequences * recovery.text.sequence_length
    return TrainingMemory(
        weights=width * block,
        gradients=width * block,
        optimizer=OPTIMIZER_WIDTH * block,
        keep=block,
        teacher=width * block,
        activations=2 * width * tokens * (facts.hidden_size or 0),
    )


def _trained(recovery: Recovery, facts: ModelFacts) -> int:
    """The number of trained weights: for LoRA an estimate as if linears were square, for vectors zero."""
    if recovery.trains.kind == "full":
        return facts.parameters or 0
    if isinstance(recovery.trains, Lora):
        linears = len(recovery.trains.linears or row_for(facts.model_type).linear_names)
        return 2 * recovery.trains.rank * (facts.hidden_size or 0) * linears * facts.blocks
    return 0


def _taught_by(recovery: Recovery, pins: Pins) -> int:
    """The number of the teacher's weights; 0 without a teacher."""
    if not recovery.needs_teacher:
        return 0
    return pins.models.get(TEACHER, pins.facts).parameters or 0


def share(size: int, workers: int) -> int:
    """The part of one worker, rounded up."""
    return -(-size // workers)
