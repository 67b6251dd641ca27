"""The memory that a worker of mask learning needs, estimated from the sizes of the model alone.

With P weights, K of them under masks, C candidates for a group of M, L = K·C/M logits (2:4 has 6 candidates
for 4 weights: 1.5 logits a weight), W workers, and w bytes of a number in `precision`:

    weights      w·P            frozen; over the workers at ZeRO stage 3
    masked       w·K            the weights under their masks, from the forward to the backward pass; of one
                                block with gradient_checkpointing
    logits       w·L            over the workers at ZeRO stage 3
    gradients    w·L            over the workers from stage 2 on
    optimizer    12·L           master logits and two moments in float32, over the workers
    step         (w + 4)·L      while the optimizer steps: gradients in one piece, and those in float32 (which
                                they are already where w is 4), over the workers
    activations  w·T·(17·h·B + n·V)   of a micro-batch's T tokens

So at 2:4 a weight in bfloat16 takes 2 + 2 + 3 + 3 + 18 + 9 = 37 bytes on one worker. A block of B, h wide,
keeps 34·h bytes a token in 16 bits beside the scores of attention, which are not kept (Korthikanti et al.,
arXiv 2205.05198); with gradient_checkpointing one block keeps these, and the others keep their input. There
are n tensors of logits over the vocabulary V: the model's, and in a distillation the teacher's and the
gradient too. The teacher uses the same frozen weights without masks, so there is no second copy. Scope block
has one block of each model at a time, and the activations of this worker's sequences in both models.
"""

import math

from pipeline.architecture.rows import row_for
from pipeline.request.resources import Resources
from pipeline.resolve.training_memory import OPTIMIZER_WIDTH, WIDTH, TrainingMemory, share
from pipeline.sources.pins import ModelFacts
from pipeline.spec.mask_training import MaskTraining
from pipeline.spec.patterns import NM

LIBRARIES = 600_000_000  # torch, transformers, DeepSpeed and Ray
KEPT_BY_A_BLOCK = 17  # numbers a token and unit of the hidden size


def mask_memory(
    training: MaskTraining, pattern: NM, resources: Resources, *, facts: ModelFacts
) -> TrainingMemory:
    """The memory of each worker. Sizes that the model's config does not give count as zero."""
    workers, asked, width = resources.training_workers, resources.recovery, WIDTH[training.precision]
    whole = training.scope == "model"
    weights, masked = facts.parameters or 0, prunable(facts)
    if not whole:
        weights = masked = share(masked, facts.blocks)
    logits = masked * math.comb(pattern.group, pattern.keep) // pattern.group
    in_float32 = 0 if training.precision == "float32" else WIDTH["float32"]
    frozen = share(width * weights, workers if whole and asked.zero_stage == 3 else 1)
    optimizer = share(OPTIMIZER_WIDTH * logits, workers if whole else 1)
    offloads = whole and resources.of("recovery").gpus_per_worker > 0
    kept = (
        0 if offloads and asked.offload.parameters else frozen,
        0 if offloads and asked.offload.optimizer else optimizer,
    )
    return TrainingMemory(
        libraries=LIBRARIES,
        weights=kept[0],
        masked=width * (share(masked, facts.blocks) if whole and asked.gradient_checkpointing else masked),
        logits=share(width * logits, workers if whole and asked.zero_stage == 3 else 1),
        gradients=share(width * logits, workers if whole and asked.zero_stage >= 2 else 1),
        optimizer=kept[1],
        step=share((width + in_float32) * logits, workers) if whole else 0,
        activations=width * (_numbers if whole else _numbers_by_block)(training, resources, facts),
        host=frozen + optimizer - sum(kept),
    )


def prunable(facts: ModelFacts) -> int:
    """The number of weights in all blocks: all but embedding and head. Norms and biases are negligible."""
    tied = bool(row_for(facts.model_type).read(facts.config, "tie_word_embeddings"))
    outer = (facts.vocabulary or 0) * (facts.hidden_size or 0) * (1 if tied else 2)
    return max((facts.parameters or 0) - outer, 0)


def _numbers(training: MaskTraining, resources: Resources, facts: ModelFacts) -> int:
    """The count of activations that a micro-batch keeps from the forward to the backward pass."""
    tokens = resources.recovery.micro_batch * training.text.sequence_length
    of_a_block = KEPT_BY_A_BLOCK * (facts.hidden_size or 0)
    kept = of_a_block * facts.blocks
    if resources.recovery.gradient_checkpointing:
        kept = of_a_block + (facts.hidden_size or 0) * facts.blocks
    return tokens * (kept + (3 if training.needs_teacher else 1) * (facts.vocabulary or 0))


def _numbers_by_block(training: MaskTraining, resources: Resources, facts: ModelFacts) -> int:
    """The count of numbers in a block's inputs, in the dense and in the masked model together."""
    sequences = share(training.sequences, resources.training_workers)
    return 2 * sequences * training.text.sequence_length * (facts.hidden_size or 0)
