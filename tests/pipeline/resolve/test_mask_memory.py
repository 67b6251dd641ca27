"""What learning masks takes on a worker."""

from typing import Any

import pytest

from pipeline.request.resources import Resources, TrainingResources
from pipeline.resolve.mask_memory import LIBRARIES, mask_memory, prunable
from pipeline.resolve.training_memory import TrainingMemory
from pipeline.sources.pins import ModelFacts
from pipeline.spec.patterns import NM
from tests.pipeline.report.made_learned import made_training

FACTS = ModelFacts(
    model_type="llama",
    blocks=10,
    max_positions=None,
    hidden_size=100,
    vocabulary=1000,
    parameters=1_200_000,
    config={"tie_word_embeddings": False},
)


def memory(
    training: dict[str, Any] | None = None,
    resources: dict[str, Any] | None = None,
    *,
    keep: int = 2,
    group: int = 4,
) -> TrainingMemory:
    """Of a million weights in ten blocks beside the embeddings, on four workers."""
    asked = made_training(**{"steps": 100, "global_batch_size": 8, **(training or {})})
    given = Resources(workers=4, recovery=TrainingResources.model_validate(resources or {}))
    return mask_memory(asked, NM(keep=keep, group=group), given, facts=FACTS)


def million(**parts: float) -> TrainingMemory:
    """Libraries are always there."""
    return TrainingMemory(
        libraries=LIBRARIES, **{name: round(value * 1_000_000) for name, value in parts.items()}
    )


SPREAD = {"step": 1.5, "activations": 36.864}  # 512 tokens, 17 · 100 numbers in ten blocks and 1000 logits


@pytest.mark.parametrize(
    ("training", "resources", "expected"),
    [
        ({}, {}, million(weights=4.8, masked=4, logits=6, gradients=6, optimizer=4.5, **SPREAD)),
        (
            {},
            {"zero_stage": 2},
            million(weights=4.8, masked=4, logits=6, gradients=1.5, optimizer=4.5, **SPREAD),
        ),
        (
            {},
            {"zero_stage": 3},
            million(weights=1.2, masked=4, logits=1.5, gradients=1.5, optimizer=4.5, **SPREAD),
        ),
        (
            {"precision": "bfloat16"},
            {"gradient_checkpointing": True},
            million(
                weights=2.4,
                masked=0.2,
                logits=3,
                gradients=3,
                optimizer=4.5,
                step=2.25,
                activations=512 * 2 * (1700 + 1000 + 1000) / 1_000_000,
            ),
        ),
        (  # 200 sequences of 512 tokens on each worker, twice
            {"scope": "block"},
            {"zero_stage": 3},
            million(weights=0.4, masked=0.4, logits=0.6, gradients=0.6, optimizer=1.8, activations=2 * 40.96),
        ),
    ],
)
def test_what_stays_whole_and_what_is_shared(
    training: dict[str, Any], resources: dict[str, Any], expected: TrainingMemory
) -> None:
    assert memory(training, resources) == expected


def test_logits_follow_the_candidates() -> None:
    assert memory(keep=4, group=8).logits == 4 * 1_000_000 * 70 // 8
    assert memory(keep=1, group=2).logits == 4 * 1_000_000


def test_a_teacher_is_the_same_weights_and_has_logits_of_its_own() -> None:
    alone, taught = memory(), memory({"objective": {"kind": "distillation"}})
    assert taught.weights == alone.weights
    assert taught.activations - alone.activations == 2 * 4 * 512 * 1000


def test_activations_follow_the_micro_batch() -> None:
    assert memory(resources={"micro_batch_size": 2}).activations == 2 * memory().activations


def test_embeddings_are_not_pruned() -> None:
    assert prunable(FACTS) == 1_000_000
    tied = FACTS.model_copy(update={"config": {"tie_word_embeddings": True}})
    assert prunable(tied) == 1_100_000
    assert prunable(FACTS.model_copy(update={"parameters": None})) == 0
