"""What a worker of mask learning needs at least, from the sizes of the model alone.

With P weights, K of them under masks, C candidates for a group of M, L = K·C/M logits (2:4 has 6 candidates
for 4 weights: 1.5 logits a weight), W workers, and w bytes of a number in `precision`:

    weights     w·P            frozen; over the workers at ZeRO stage 3
    masked      w·K            the weights under their masks, from the forward to the backward pass; of one
                               block with gradient_checkpointing
    logits      w·L            over the workers at ZeRO stage 3
    gradients   w·L            over the workers from stage 2 on
    optimizer   12·L           master logits and two moments in float32, over the workers

So at 2:4 a weight in bfloat16 takes 2 + 2 + 3 + 3 + 18 = 28 bytes on one worker. The teacher of a
distillation is the same frozen weights without masks, no second copy. Scope block has one block of each at a
time, and the activations of this worker's sequences in the dense model and in the masked one. Other
activations come on top: they follow micro_batch_size, sequence_length and gradient_checkpointing.
"""

import math

from pipeline.methods.maskllm import MaskTraining
from pipeline.patterns import NM
from pipeline.resources import Resources
from pipeline.sources.pins import ModelFacts
from pipeline.training_memory import OPTIMIZER_WIDTH, WIDTH, TrainingMemory, share


def mask_memory(
    training: MaskTraining, pattern: NM, resources: Resources, *, facts: ModelFacts
) -> TrainingMemory:
    """Of each worker. What is not known of a model counts as nothing."""
    workers, asked, width = resources.training_workers, resources.recovery, WIDTH[training.precision]
    weights, masked = facts.parameters or 0, prunable(facts)
    activations = 0
    if training.scope == "block":
        weights = masked = share(masked, facts.blocks)
        sequences = share(training.sequences, workers)
        tokens = sequences * training.text.sequence_length
        activations = 2 * width * tokens * (facts.hidden_size or 0)
    logits = masked * math.comb(pattern.group, pattern.keep) // pattern.group
    whole = training.scope == "model"
    return TrainingMemory(
        weights=share(width * weights, workers if whole and asked.zero_stage == 3 else 1),
        masked=width * (share(masked, facts.blocks) if whole and asked.gradient_checkpointing else masked),
        logits=share(width * logits, workers if whole and asked.zero_stage == 3 else 1),
        gradients=share(width * logits, workers if whole and asked.zero_stage >= 2 else 1),
        optimizer=share(OPTIMIZER_WIDTH * logits, workers if whole else 1),
        activations=activations,
    )


def prunable(facts: ModelFacts) -> int:
    """Weights of all blocks: what is not an embedding or the head. Norms and biases are next to none."""
    tied = bool(facts.config.get("tie_word_embeddings", False))
    outer = (facts.vocabulary or 0) * (facts.hidden_size or 0) * (1 if tied else 2)
    return max((facts.parameters or 0) - outer, 0)
