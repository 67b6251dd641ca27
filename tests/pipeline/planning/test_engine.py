"""Tasks in vLLM are refused before anything runs where the GPUs of a worker cannot share the model."""

import pytest

from pipeline.errors import InvalidSpec
from pipeline.planning.engine import check_engine
from tests.pipeline.planning.test_estimates import pins_of, request

TASKS = {"tasks": ["sciq"], "engine": "vllm"}


@pytest.mark.parametrize(
    ("gpus", "structure", "refusal"),
    [
        (3, None, r"does not divide num_attention_heads=32"),
        (4, {"intermediate_size": 10001}, r"does not divide intermediate_size=10001"),
        (0.5, None, r"got 0\.5, and .* takes whole GPUs"),
    ],
)
def test_what_does_not_divide_is_refused(gpus: float, structure: dict[str, int] | None, refusal: str) -> None:
    asked = request(
        evaluation={"tasks": TASKS}, structure=structure, resources={"evaluation": {"gpus_per_worker": gpus}}
    )
    with pytest.raises(InvalidSpec, match=refusal) as refused:
        check_engine(asked, pins_of(asked))
    assert refused.value.param == "resources.evaluation.gpus_per_worker"


@pytest.mark.parametrize("engine", ["vllm", "transformers"])
def test_what_divides_is_taken(engine: str) -> None:
    gpus = 4 if engine == "vllm" else 3
    asked = request(
        evaluation={"tasks": {**TASKS, "engine": engine}},
        resources={"evaluation": {"gpus_per_worker": gpus}},
    )
    check_engine(asked, pins_of(asked))
