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
SMALL = ModelFacts(model_type="llama", blocks=10, max_positions=None, hidden_size=100, parameters=1_000_000)


def memory(
    recovery: dict[str, Any] | None = None,
    resources: dict[str, Any] | None = None,
    *,
    teacher: int | None = None,
    sparse: bool = True,
    workers: int = 4,
    gpus: int = 0,
    facts: ModelFacts = SMALL,
) -> TrainingMemory:
    """Of a model of a million weights on four workers."""
    pin = Pin(source="file:/m", files=(PinnedFile(path="m", size=1, tag="sha256:0"),))
    asked = Recovery.model_validate({"text": TEXT, "steps": 100, "global_batch_size": 8, **(recovery or {})})
    given = Resources(
        workers=workers, gpus_per_worker=gpus, recovery=TrainingResources.model_validate(resources or {})
    )
    other = {TEACHER: facts.model_copy(update={"parameters": teacher})} if teacher else {}
    models = {MODEL: facts, **other}
    pins = Pins(sources=dict.fromkeys(models, pin), models=models)
    return training_memory(asked, given, pins=pins, sparse=sparse)


def million(*, activations: float = 58.15296, **parts: float) -> TrainingMemory:
    """By default with the activations of 32 tokens in float32, in 10 blocks of 12·100 + 2·100 + 4·11008
    numbers: the FFN has the channels of Llama's default."""
    all_parts = {"activations": activations, **parts}
    return TrainingMemory(**{name: round(value * 1_000_000) for name, value in all_parts.items()})


@pytest.mark.parametrize(
    ("recovery", "resources", "expected"),
    [
        ({}, {}, million(weights=4, gradients=4, optimizer=3, keep=0.03125, teacher=0)),
        ({}, {"zero_stage": 2}, million(weights=4, gradients=1, optimizer=3, keep=0.03125, teacher=0)),
        (  # two buckets of the whole model, which is smaller than a bucket
            {},
            {"zero_stage": 3},
            million(weights=1, gradients=1, optimizer=3, keep=0.03125, live=8),
        ),
        (
            {"precision": "bfloat16"},
            {"zero_stage": 2},
            million(weights=2, gradients=0.5, optimizer=3, keep=0.03125, step=1, activations=29.07648),
        ),
        (
            {"precision": "bfloat16", "objective": DISTILLATION},
            {},
            million(
                weights=2, gradients=2, optimizer=3, keep=0.03125, teacher=2, step=1, activations=29.07648
            ),
        ),
        (
            {"objective": DISTILLATION},
            {"teacher": "sharded"},
            million(weights=4, gradients=4, optimizer=3, keep=0.03125, teacher=1),
        ),
        (
            {"trains": {"kind": "norms_and_biases"}},
            {},
            million(weights=4, gradients=0, optimizer=0, keep=0.03125, teacher=0),
        ),
        (  # 7 linears in 10 blocks, A [5, 100] and B [100, 5] each: 70 000 weights
            {"trains": {"kind": "lora", "rank": 5}},
            {},
            million(weights=4, gradients=0.28, optimizer=0.21, keep=0.03125, teacher=0),
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
    assert alone.total == 20_125_000 + 58_152_960
    assert alone.parts() == {
        "weights": 4_000_000,
        "gradients": 4_000_000,
        "optimizer": 12_000_000,
        "keep": 125_000,
        "activations": 58_152_960,
    }


def test_what_is_offloaded_lies_beside_gpus() -> None:
    """On CPUs it lies in the same memory as everything else."""
    offloaded = {
        "zero_stage": 3,
        "teacher": "offloaded",
        "offload": {"optimizer": True, "parameters": True},
    }
    recovery = {"objective": DISTILLATION, "precision": "bfloat16"}
    on_cpus = memory(recovery, offloaded)
    assert (on_cpus.host, on_cpus.weights, on_cpus.optimizer) == (0, 500_000, 3_000_000)
    on_gpus = memory(recovery, offloaded, gpus=1)
    assert on_gpus.host == 500_000 + 3_000_000 + 500_000
    assert (on_gpus.weights, on_gpus.optimizer, on_gpus.teacher) == (0, 0, 0)
    assert on_gpus.device == on_gpus.total - on_gpus.host
    assert on_gpus.buckets == 2 * 2 * 1_000_000


def test_a_70b_fits_eight_gpus_with_offload_only() -> None:
    """The usual account: 16 bytes a weight and 2 bytes of gradient over 8 GPUs of 141 GB are too much."""
    config = {
        "intermediate_size": 28_672,
        "num_attention_heads": 64,
        "num_key_value_heads": 8,
    }
    facts = ModelFacts(
        model_type="llama",
        blocks=80,
        max_positions=None,
        hidden_size=8192,
        vocabulary=128_256,
        parameters=70_550_000_000,
        config=config,
    )
    asked: dict[str, Any] = {"zero_stage": 3, "gradient_checkpointing": True}
    recovery = {"precision": "bfloat16", "text": {**TEXT, "sequence_length": 4096}}
    held = memory(recovery, asked, workers=8, gpus=1, facts=facts)
    assert held.device > 141e9
    assert held.keep == pytest.approx(70.55e9 / 64, rel=1e-3)
    assert held.vocabulary < 8e9  # in chunks; whole logits would be 7.4 GB, with what the loss makes of them
    offloaded = memory(recovery, {**asked, "offload": {"optimizer": True}}, workers=8, gpus=1, facts=facts)
    assert offloaded.device < 100e9
    assert offloaded.host == pytest.approx(12 * 70.55e9 / 8, rel=1e-3)
    without = memory(recovery, {"zero_stage": 3}, workers=8, gpus=1, facts=facts)
    assert without.activations > 15 * held.activations
