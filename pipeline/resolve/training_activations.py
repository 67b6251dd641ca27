"""The memory of the activations of recovery training, and of its logits.

From its forward to its backward pass, a block keeps for each token

    12·H + 2·K + 4·F numbers

where H is the hidden size, K the width of keys, and F the channels of the FFN that a token passes: of
`num_experts_per_tok` experts and of the shared one, where there are experts. This was counted on Llama's
blocks in transformers (tests/pipeline/resolve/test_training_activations.py counts again); scores of attention
are not kept. With gradient_checkpointing one block keeps these, and every other one its input alone.

Logits of V tokens of vocabulary are kept once in `precision` and three times in float32 (as they are, as
log-probabilities, and their gradient), and once more from a teacher. Above FUSED_ABOVE bytes in float32 they
never stand whole (pipeline/tensor/fused_loss.py): there are five times CHUNK of them in float32, and a
gradient of the output weights and the hidden states in float32.
"""

from pipeline.architecture.rows import row_for
from pipeline.request.resources import TrainingResources
from pipeline.sources.pins import ModelFacts
from pipeline.spec.recovery import Recovery

FUSED_ABOVE = 2**30  # bytes
FLOAT32 = 4
CHUNK = 2**26  # logits, as in pipeline/tensor/fused_loss.py


def is_fused(*, tokens: int, vocabulary: int) -> bool:
    """Tells whether the logits of a micro-batch of so many tokens are too large to stand whole."""
    return FLOAT32 * tokens * vocabulary > FUSED_ABOVE


def activation_bytes(recovery: Recovery, asked: TrainingResources, facts: ModelFacts, *, width: int) -> int:
    """The activations that a micro-batch keeps. `width`: bytes of a number. Sizes that the model's config
    does not give count as zero."""
    tokens = asked.micro_batch * recovery.text.sequence_length
    hidden = facts.hidden_size or 0
    of_a_block = 12 * hidden + 2 * _keys(facts) + 4 * _channels(facts)
    if asked.gradient_checkpointing:
        return width * tokens * (of_a_block + hidden * facts.blocks)
    return width * tokens * of_a_block * facts.blocks


def logits_bytes(recovery: Recovery, asked: TrainingResources, facts: ModelFacts, *, width: int) -> int:
    """The logits of a micro-batch, with what the loss makes of them."""
    tokens = asked.micro_batch * recovery.text.sequence_length
    vocabulary, hidden = facts.vocabulary or 0, facts.hidden_size or 0
    if is_fused(tokens=tokens, vocabulary=vocabulary):
        by_weights = vocabulary * hidden if recovery.trains.kind == "full" else 0
        return FLOAT32 * (5 * CHUNK + by_weights + tokens * hidden)
    models = 2 if recovery.needs_teacher else 1
    return tokens * vocabulary * (models * width + 3 * FLOAT32)


def _keys(facts: ModelFacts) -> int:
    """The width of a block's keys; as many as its queries if the config does not say."""
    row, hidden = row_for(facts.model_type), facts.hidden_size or 0
    heads = _stated(facts, row.sizes.get("num_attention_heads"))
    groups = _stated(facts, row.sizes.get("num_key_value_heads"))
    return hidden * groups // heads if heads and groups else hidden


def _channels(facts: ModelFacts) -> int:
    """The channels of the FFN that a token passes; 4·H if the config does not say."""
    row = row_for(facts.model_type)
    if row.experts is not None:
        each = _stated(facts, row.sizes.get("moe_intermediate_size"))
        shared = _stated(facts, row.sizes.get("shared_expert_intermediate_size"))
        shared = shared or each * _stated(facts, row.shared_experts)
        passed = _stated(facts, "num_experts_per_tok") or 2
        if each:
            return passed * each + shared
    return _stated(facts, row.sizes.get("intermediate_size")) or 4 * (facts.hidden_size or 0)


def _stated(facts: ModelFacts, field: str | None) -> int:
    """A size of the model's config; 0 if the type has none or the config does not say."""
    value = None if field is None else row_for(facts.model_type).read(facts.config, field)
    return value if isinstance(value, int) else 0
