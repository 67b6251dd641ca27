"""The memory that training is said to take is that of a count by hand."""

from typing import Any

import pytest

from pipeline.request.resources import Resources, TrainingResources
from pipeline.resolve.training_memory import TrainingMemory, training_memory
from pipeline.sources.pins import MODEL, TEACHER, ModelFacts, Pin, PinnedFile, Pins
from pipeline.spec.recovery import Recovery

TEXT = {"source": "file:/x.txt", "sequence_length": 32}
DISTILLATION = {"kind": "distillation"}
RECONSTRUCTION = {"kind": "reconstruction"}


def memory(
    recovery: dict[str, Any] | None = None,
    resources: dict[str, Any] | None = None,
    *,
    teacher: int | None = None,
    sparse: bool = True,
    workers: int = 4,
) -> TrainingMemory:
    """Of a model of a million weights on four workers."""
    pin = Pin(source="file:/m", files=(PinnedFile(path="m", size=1, tag="sha256:0"),))
    facts = ModelFacts(
        model_type="llama", blocks=10, max_positions=None, hidden_size=100, parameters=1_000_000
    )
    asked = Recovery.model_validate({"text": TEXT, "steps": 100, "global_batch_size": 8, **(recovery or {})})
    given = Resources(workers=workers, recovery=TrainingResources.model_validate(resources or {}))
    other = {TEACHER: facts.model_copy(update={"parameters": teacher})} if teacher else {}
    models = {MODEL: facts, **other}
    pins = Pins(sources=dict.fromkeys(models, pin), models=models)
    return training_memory(asked, given, pins=pins, sparse=sparse)


def million(**parts: float) -> TrainingMemory:
    return TrainingMemory(**{name: round(value * 1_000_000) for name, value in parts.items()})


@pytest.mark.parametrize(
    ("recovery", "resources", "expected"),
    [
        ({}, {}, million(weights=4, gradients=4, optimizer=3, keep=1, teacher=0)),
        ({}, {"zero_stage": 2}, million(weights=4, gradients=1, optimizer=3, keep=1, teacher=0)),
        ({}, {"zero_stage": 3}, million(weights=1, gradients=1, optimizer=3, keep=1, teacher=0)),
        (
            {"precision": "bfloat16"},
            {"zero_stage": 2},
            million(weights=2, gradients=0.5, optimizer=3, keep=1, teacher=0),
        ),
        (
            {"precision": "bfloat16", "objective": DISTILLATION},
            {},
            million(weights=2, gradients=2, optimizer=3, keep=1, teacher=2),
        ),
        (
            {"objective": DISTILLATION},
            {"teacher": "sharded"},
            million(weights=4, gradients=4, optimizer=3, keep=1, teacher=1),
        ),
        (
            {"trains": {"kind": "norms_and_biases"}},
            {},
            million(weights=4, gradients=0, optimizer=0, keep=1, teacher=0),
        ),
        (  # 7 linears in 10 blocks, A [5, 100] and B [100, 5] each: 70 000 weights
            {"trains": {"kind": "lora", "rank": 5}},
            {},
            million(weights=4, gradients=0.28, optimizer=0.21, keep=1, teacher=0),
        ),
        (  # a tenth of the model; 800 sequences, 200 here, of 32 tokens of 100 floats, of two models
            {"trains": RECONSTRUCTION},
            {},
            million(weights=0.4, gradients=0.4, optimizer=1.2, keep=0.1, teacher=0.4, activations=5.12),
        ),
    ],
)
def test_memory_by_hand(
    recovery: dict[str, Any], resources: dict[str, Any], expected: TrainingMemory
) -> None:
    assert memory(recovery, resources) == expected


def test_memory_of_other_teachers_and_dense_models() -> None:
    found = memory({"objective": {**DISTILLATION, "teacher": {"source": "file:/big"}}}, teacher=3_000_000)
    assert found.teacher == 12_000_000
    assert memory(sparse=False).keep == 0
    alone = memory(workers=1)
    assert alone.total == 21_000_000
    assert alone.parts() == {
        "weights": 4_000_000,
        "gradients": 4_000_000,
        "optimizer": 12_000_000,
        "keep": 1_000_000,
    }
