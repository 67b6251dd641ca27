"""A recovery that cannot be is refused with the one field to change; what is possible is taken."""

import math
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from pipeline.request.prune_spec import JobRequest, JobTemplate
from pipeline.spec.recovery import Recovery
from pipeline.spec.training_recipe import LearningRate

UNSTRUCTURED = {"method": {"kind": "magnitude"}, "pattern": {"kind": "unstructured", "sparsity": 0.5}}
TWO_OF_FOUR = {"method": {"kind": "magnitude"}, "pattern": {"kind": "nm", "keep": 2, "group": 4}}
TEXT = {"source": "file:/x.txt", "sequence_length": 32}
DISTILLATION = {"kind": "distillation"}
RECONSTRUCTION = {"kind": "reconstruction"}


def request(
    recovery: dict[str, Any] | None = None,
    resources: dict[str, Any] | None = None,
    *,
    prune: dict[str, Any] | None = UNSTRUCTURED,
) -> dict[str, Any]:
    asked = {"text": TEXT, "steps": 200, **(recovery or {})}
    given = {name: value for name, value in asked.items() if value is not None}
    spec = {"model": {"source": "file:/m"}, "prune": prune, "recovery": given}
    return {"spec": spec, "resources": resources or {}}


def accepted(*args: Any, **kwargs: Any) -> JobRequest:
    return JobRequest.model_validate(request(*args, **kwargs))


def gradual(sparsity: float, **more: Any) -> dict[str, Any]:
    return {"keep": {"kind": "gradual", "sparsity": sparsity, **more}}


REFUSED: list[tuple[dict[str, Any], str, list[str]]] = [
    (request({"steps": None}), "spec.recovery", ["tokens or steps"]),
    (request({"tokens": 5}), "spec.recovery.steps", ["one of them"]),
    (request({"steps": 20}), "spec.recovery.learning_rate.warmup_steps", ["20", "fewer"]),
    (
        request({"early_stop": {}, "text": {**TEXT, "validation_sequences": 0}}),
        "spec.recovery.text.validation_sequences",
        ["at least 1"],
    ),
    (request({"early_stop": {}, "trains": RECONSTRUCTION}), "spec.recovery.early_stop", ["reconstruction"]),
    (request({"early_stop": {}, **gradual(0.7)}), "spec.recovery.early_stop", ["gradual"]),
    (
        request({"trains": RECONSTRUCTION, "objective": DISTILLATION}),
        "spec.recovery.objective",
        ["leave objective out"],
    ),
    (
        request({"keep": {"kind": "dynamic"}, "trains": {"kind": "lora"}}),
        "spec.recovery.trains.kind",
        ["full"],
    ),
    (
        request({"keep": {"kind": "dynamic", "every_steps": 151}}),
        "spec.recovery.keep.every_steps",
        ["151", "fewer"],
    ),
    (
        request({"keep": {"kind": "dynamic"}}, prune=TWO_OF_FOUR),
        "spec.recovery.keep.kind",
        ["unstructured", "nm", "held"],
    ),
    (request({"keep": {"kind": "dynamic"}}, prune=None), "spec.recovery.keep.kind", ["nothing is pruned"]),
    (request(gradual(0.9), prune=TWO_OF_FOUR), "spec.recovery.keep.kind", ["or no prune", "nm"]),
    (request(gradual(0.5)), "spec.recovery.keep.sparsity", ["0.5", "already"]),
    (request({"trains": RECONSTRUCTION}, prune=None), "spec.recovery.trains.kind", ["add prune", "lora"]),
    (
        request({"objective": DISTILLATION}, prune=None),
        "spec.recovery.objective.teacher",
        ["its own teacher", "language_modelling"],
    ),
    (request({"precision": "float16"}), "spec.recovery.precision", ["bfloat16", "resources.gpus_per_worker"]),
    (request({}, {"gpus_per_worker": 0.5}), "resources.gpus_per_worker", ["0.5", "one whole GPU"]),
    (request({}, {"gpus_per_worker": 2}), "resources.gpus_per_worker", ["more workers"]),
    (request({}, {"recovery": {"teacher": "sharded"}}), "resources.recovery.teacher", ["distillation"]),
    (request({}, {"recovery": {"min_workers": 2}}), "resources.recovery.min_workers", ["1 workers"]),
    (
        request({}, {"recovery": {"zero_stage": 2, "offload": {"parameters": True}}}),
        "resources.recovery.offload.parameters",
        ["zero_stage 3", "got 2"],
    ),
    (
        request({"global_batch_size": 10}, {"workers": 2, "recovery": {"micro_batch_size": 2}}),
        "spec.recovery.global_batch_size",
        ["8 or 12", "micro_batch_size 2 · 2 workers = 4"],
    ),
    (
        request({"global_batch_size": 3}, {"workers": 4}),
        "spec.recovery.global_batch_size",
        ["use 4,"],
    ),
    (
        request({"global_batch_size": 8}, {"workers": 2, "recovery": {"gradient_accumulation_steps": 3}}),
        "spec.recovery.global_batch_size",
        ["= 6", "gradient_accumulation_steps to 4"],
    ),
]


@pytest.mark.parametrize(
    ("body", "field", "words"), REFUSED, ids=[f"{i}-{r[1]}" for i, r in enumerate(REFUSED)]
)
@pytest.mark.parametrize("kind", [JobRequest, JobTemplate])
def test_refused_by_field(
    kind: type[JobTemplate], body: dict[str, Any], field: str, words: list[str]
) -> None:
    with pytest.raises(ValidationError) as caught:
        kind.model_validate(body)
    (problem,) = caught.value.errors()
    path = [str(part) for part in problem["loc"]]
    assert ".".join(path) == field
    for word in words:
        assert word in problem["msg"]


@pytest.mark.parametrize(
    ("recovery", "resources", "prune"),
    [
        ({}, {}, UNSTRUCTURED),
        ({}, {}, None),
        ({"objective": DISTILLATION}, {"recovery": {"teacher": "sharded"}}, TWO_OF_FOUR),
        ({"objective": {**DISTILLATION, "teacher": {"source": "file:/big"}}}, {}, None),
        ({"objective": DISTILLATION, **gradual(0.4)}, {}, None),  # the teacher stays dense
        ({"trains": RECONSTRUCTION}, {}, UNSTRUCTURED),
        ({"trains": RECONSTRUCTION}, {"recovery": {"teacher": "sharded"}}, UNSTRUCTURED),
        ({"precision": "float16"}, {"gpus_per_worker": 1}, UNSTRUCTURED),
        ({"steps": 1}, {}, UNSTRUCTURED),
        ({"steps": None, "tokens": 1}, {}, UNSTRUCTURED),
        (
            {"global_batch_size": 6},
            {"workers": 8, "recovery": {"workers": 3, "min_workers": 2}},
            UNSTRUCTURED,
        ),
        ({}, {"recovery": {"zero_stage": 3, "offload": {"parameters": True}}}, UNSTRUCTURED),
    ],
)
def test_taken(recovery: dict[str, Any], resources: dict[str, Any], prune: dict[str, Any] | None) -> None:
    body = request(recovery, resources, prune=prune)
    made = JobRequest.model_validate(body)
    assert JobRequest.model_validate_json(made.model_dump_json()) == made
    del body["spec"]["model"]
    assert JobTemplate.model_validate(body).spec.model is None


def test_what_has_no_recovery_is_not_bound_by_it() -> None:
    body = request(resources={"gpus_per_worker": 0.5, "workers": 3})
    del body["spec"]["recovery"]
    assert JobRequest.model_validate(body).resources.gpus_per_worker == 0.5


@given(
    size=st.integers(1, 200),
    micro=st.integers(1, 8),
    workers=st.integers(1, 6),
    steps=st.none() | st.integers(1, 6),
)
def test_the_product_of_batch_sizes(size: int, micro: int, workers: int, steps: int | None) -> None:
    resources = {
        "workers": workers,
        "recovery": {"micro_batch_size": micro, "gradient_accumulation_steps": steps},
    }
    possible = size == micro * workers * steps if steps else size % (micro * workers) == 0
    try:
        accepted({"global_batch_size": size}, resources)
        assert possible
    except ValidationError as error:
        assert not possible
        advice = str(error).split("; use ")[1].split(", or change")[0]
        for better in advice.split(" or "):  # what is advised works
            accepted({"global_batch_size": int(better)}, resources)


@given(
    kind=st.sampled_from(["cosine", "linear", "constant"]),
    steps=st.integers(2, 300),
    warmup=st.integers(0, 299),
    final=st.floats(0, 1),
)
def test_the_rate_rises_then_falls_to_its_end(kind: Any, steps: int, warmup: int, final: float) -> None:
    rate = LearningRate(kind=kind, peak=0.5, warmup_steps=min(warmup, steps - 1), final=final)
    rates = [rate.at(step, steps=steps) for step in range(steps)]
    rising = rates[: rate.warmup_steps]
    assert rising == sorted(rising)
    falling = rates[rate.warmup_steps :]
    assert falling[0] == pytest.approx(0.5)
    assert all(after <= before + 1e-12 for before, after in pairwise(falling))
    if kind == "constant":
        assert set(falling) == {0.5}
    elif len(falling) > 1:
        assert falling[-1] == pytest.approx(0.5 * final, abs=1e-12)


@given(tokens=st.integers(1, 10**7), size=st.integers(1, 512), length=st.integers(8, 4096))
def test_tokens_are_rounded_up_to_whole_steps(tokens: int, size: int, length: int) -> None:
    recovery = Recovery.model_validate(
        {
            "text": {**TEXT, "sequence_length": length},
            "tokens": tokens,
            "global_batch_size": size,
            "learning_rate": {"warmup_steps": 0},
        }
    )
    assert recovery.total_steps == math.ceil(tokens / (size * length))
    assert recovery.sequences * length >= tokens
