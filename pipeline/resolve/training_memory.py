"""The least memory that a worker of recovery training needs, from the sizes of model and teacher alone.

The usual account (Rajbhandari et al., arXiv 1910.02054), with P weights, T of them trained, W workers, and w
bytes of a weight in `precision`:

    weights      w·P                  over the workers at ZeRO stage 3
    gradients    w·T                  over the workers from stage 2 on
    optimizer    12·T                 master weights and two moments in float32, over the workers
    step         4·T                  while the optimizer steps: gradients in float32, over the workers; none
                                      where w is 4
    keep         P / 8                a bit a weight, where zeros are held, over the workers
    teacher      w·P of the teacher   over the workers unless it is `whole`
    buckets      w·2·bucket           what is on its way between workers (communication.py), on GPUs
    live         w·2·bucket           weights of the blocks that are computed, at ZeRO stage 3
    adapted      w·E                  of E weights of experts, where LoRA adapts them; those of one block with
                                      gradient_checkpointing
    activations, vocabulary           training_activations.py

On GPUs, what `resources.recovery.offload` and `teacher: offloaded` name lies in the memory of the CPUs.
"""

from dataclasses import dataclass

from pipeline.architecture.rows import row_for
from pipeline.request.resources import Resources
from pipeline.resolve.communication import bucket_of
from pipeline.resolve.training_activations import activation_bytes, logits_bytes
from pipeline.sources.pins import TEACHER, ModelFacts, Pins
from pipeline.spec.model import Dtype
from pipeline.spec.recovery import Lora, Recovery
from pipeline.structure.sizes import sizes_of

WIDTH: dict[Dtype, int] = {"float32": 4, "bfloat16": 2, "float16": 2}
OPTIMIZER_WIDTH = 12


@dataclass(frozen=True)
class TrainingMemory:
    """Bytes of one worker. `masked`, `logits` and `libraries` belong to mask learning (mask_memory.py).
    Reconstruction works block by block and holds the `activations` of all its sequences. `vocabulary`: the
    logits over it. `host`: what lies in the memory of the CPUs, while the rest lies on a GPU."""

    weights: int
    gradients: int
    optimizer: int
    keep: int = 0
    teacher: int = 0
    masked: int = 0
    logits: int = 0
    step: int = 0
    adapted: int = 0
    activations: int = 0
    libraries: int = 0
    buckets: int = 0
    live: int = 0
    vocabulary: int = 0
    host: int = 0

    @property
    def total(self) -> int:
        """The sum of all parts in bytes."""
        return sum(vars(self).values())

    @property
    def device(self) -> int:
        """The bytes that lie on the worker's GPU, if it has one."""
        return self.total - self.host

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
    gpus = resources.of("recovery").gpus_per_worker > 0
    weights = share(width * parameters, workers if asked.zero_stage == 3 else 1)
    optimizer = share(OPTIMIZER_WIDTH * trained, workers)
    teacher = share(width * _taught_by(recovery, pins), 1 if asked.teacher == "whole" else workers)
    kept = (
        0 if gpus and asked.offload.parameters else weights,
        0 if gpus and asked.offload.optimizer else optimizer,
        0 if gpus and asked.teacher == "offloaded" else teacher,
    )
    block = bucket_of(share(parameters, max(facts.blocks, 1)))
    return TrainingMemory(
        weights=kept[0],
        gradients=share(width * trained, workers if asked.zero_stage >= 2 else 1),
        optimizer=kept[1],
        step=share(WIDTH["float32"] * trained, workers) if width < WIDTH["float32"] else 0,
        keep=share(parameters, 8 * workers) if sparse else 0,
        teacher=kept[2],
        buckets=2 * width * min(block, trained) if gpus else 0,
        live=2 * width * min(block, parameters) if asked.zero_stage == 3 else 0,
        adapted=_adapted_bytes(recovery, facts, checkpointing=asked.gradient_checkpointing, width=width),
        activations=activation_bytes(recovery, asked, facts, width=width),
        vocabulary=logits_bytes(recovery, asked, facts, width=width),
        host=weights + optimizer + teacher - sum(kept),
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
        row = row_for(facts.model_type)
        linears = [name for name in recovery.trains.linears or row.adapted_names if name in row.adapted_names]
        square = 2 * recovery.trains.rank * (facts.hidden_size or 0) * len(linears) * facts.blocks
        return square + recovery.trains.rank * _expert_sizes(recovery.trains, facts)[1]
    return 0


def _expert_sizes(lora: Lora, facts: ModelFacts) -> tuple[int, int]:
    """The weights of all experts, and the sum of the lengths of their fused matrices' sides; zeros unless
    they are adapted."""
    row = row_for(facts.model_type)
    if row.experts is None or row.experts.stored not in (lora.linears or ()):
        return 0, 0
    sizes = sizes_of(row, facts.config)
    experts, hidden, inner = sizes.num_experts or 0, sizes.hidden_size, sizes.moe_intermediate_size or 0
    count = experts * facts.blocks
    return count * 3 * hidden * inner, count * (2 * hidden + 3 * inner)


def _adapted_bytes(recovery: Recovery, facts: ModelFacts, *, checkpointing: bool, width: int) -> int:
    """The experts' adapted weights, which stand from a block's forward to its backward pass."""
    if not isinstance(recovery.trains, Lora):
        return 0
    weights = width * _expert_sizes(recovery.trains, facts)[0]
    return share(weights, facts.blocks) if checkpointing else weights


def _taught_by(recovery: Recovery, pins: Pins) -> int:
    """The number of the teacher's weights; 0 without a teacher."""
    if not recovery.needs_teacher:
        return 0
    return pins.models.get(TEACHER, pins.facts).parameters or 0


def share(size: int, workers: int) -> int:
    """The part of one worker, rounded up."""
    return -(-size // workers)
