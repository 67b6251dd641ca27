"""What is said of the stages of a job before it runs, and what is refused."""

from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import InvalidSpec
from pipeline.job.estimate import Estimate
from pipeline.planning.fits import checked_estimates
from pipeline.planning.table import model, rows
from pipeline.request.prune_spec import JobRequest
from pipeline.sources.pins import ModelFacts, Pins
from tests.made_pins import made_pins

TEXT = {"source": "file:/texts/books.txt", "sequence_length": 2048}
PRUNE = {"method": {"kind": "wanda"}, "pattern": {"kind": "nm", "keep": 2, "group": 4}}
RECOVERY = {"text": TEXT, "steps": 1000, "global_batch_size": 64, "precision": "bfloat16"}
WIKI = {"source": "file:/texts/wiki.txt", "windows": 100}


def request(*, resources: dict[str, Any] | None = None, **spec: Any) -> JobRequest:
    """A job on GPUs that prunes."""
    return JobRequest.model_validate(
        {
            "spec": {
                "model": {"source": "file:/models/large"},
                "calibration": {"source": "file:/texts/c4.txt"},
                "prune": PRUNE,
                "evaluation": {"perplexity": [WIKI]},
                "compute_dtype": "bfloat16",
                **spec,
            },
            "resources": {"gpus_per_worker": 1, **(resources or {})},
        }
    )


def pins_of(asked: JobRequest, name: str = "7B") -> Pins:
    return made_pins(asked.spec, facts=model(name)[1])


def expected(asked: JobRequest, name: str = "7B") -> dict[str, Estimate]:
    return {one.node: one for one in checked_estimates(asked, pins_of(asked, name))}


def test_every_stage_that_takes_long_has_an_estimate() -> None:
    found = expected(request(recovery=RECOVERY))
    assert {
        "import_model",
        "prune",
        "recover",
        "evaluate:dense",
        "evaluate:pruned",
        "evaluate:recovered",
        "publish",
    } == set(found)
    assert all(one.seconds is not None and one.seconds > 0 for one in found.values())
    assert {one.device for one in found.values()} == {"H200"}
    assert set(found["prune"].parts) == {"read", "forward", "statistics", "solve", "orchestration", "store"}
    assert found["recover"].gpu_memory_bytes is not None


def test_a_model_without_sizes_has_no_estimate() -> None:
    asked = request()
    facts = ModelFacts(model_type="llama", blocks=2, max_positions=128, config={"hidden_size": None})
    assert checked_estimates(asked, made_pins(asked.spec, facts=facts)) == ()


def test_a_smaller_model_after_structure_takes_less() -> None:
    cut = request(structure={"hidden_size": 2048, "intermediate_size": 5504})
    whole, half = expected(request())["prune"], expected(cut)["prune"]
    assert whole.seconds is not None
    assert half.seconds is not None
    assert half.seconds < 0.5 * whole.seconds


@pytest.mark.parametrize(
    ("spec", "resources", "name", "parts"),
    [
        (
            {"recovery": RECOVERY},
            {"memory_per_gpu": "80GiB"},
            "7B",
            ("recover needs at least", "resources.memory_per_gpu is 80GiB", "zero_stage 3"),
        ),
        ({}, {"memory_per_gpu": "24GiB"}, "405B", ("prune needs at least", "sequence_length")),
        (
            {"evaluation": {"tasks": {"tasks": ["piqa"]}}},
            {"memory_per_gpu": "80GiB"},
            "70B",
            ("tasks:dense:", "on each GPU", "raise resources.gpus_per_worker"),
        ),
        (
            {},
            {"memory_per_gpu": "4GiB", "gpus_per_worker": 0.25},
            "7B",
            ("prune needs at least", "is 4GiB for 0.25 of it"),
        ),
    ],
    ids=["recovery", "pruning", "tasks", "fraction"],
)
def test_what_cannot_fit_is_refused(
    spec: dict[str, Any], resources: dict[str, Any], name: str, parts: tuple[str, ...]
) -> None:
    asked = request(resources=resources, **spec)
    with pytest.raises(InvalidSpec) as refused:
        checked_estimates(asked, pins_of(asked, name))
    assert refused.value.param == "resources.memory_per_gpu"
    for part in parts:
        assert part in refused.value.message
    undeclared = request(resources={**resources, "memory_per_gpu": None}, **spec)
    assert checked_estimates(undeclared, pins_of(undeclared, name))


def test_offloading_and_more_workers_make_it_fit() -> None:
    split = {"zero_stage": 2, "gradient_checkpointing": True}
    many = {"workers": 8, "memory_per_gpu": "80GiB", "recovery": split}
    assert expected(request(resources=many, recovery=RECOVERY))["recover"].seconds
    kept, moved = (
        expected(
            request(resources={"recovery": {**split, "offload": {"optimizer": offloads}}}, recovery=RECOVERY)
        )["recover"]
        for offloads in (False, True)
    )
    assert kept.gpu_memory_bytes is not None
    assert moved.gpu_memory_bytes is not None
    assert kept.gpu_memory_bytes - moved.gpu_memory_bytes == 12 * model("7B")[0].weights
    assert moved.seconds is not None
    assert kept.seconds is not None
    assert moved.seconds > kept.seconds


def test_without_gpus_nothing_is_refused_and_the_hosts_memory_is_told() -> None:
    asked = request(resources={"gpus_per_worker": 0, "memory_per_gpu": "1GiB"}, recovery=RECOVERY)
    found = expected(asked)
    assert found["prune"].gpu_memory_bytes is None
    assert found["prune"].memory_bytes is not None
    assert found["prune"].device == "1 CPU core"


def test_learned_masks_are_estimated() -> None:
    method = {"kind": "maskllm", "training": {**RECOVERY, "objective": {"kind": "language_modelling"}}}
    found = expected(request(prune={**PRUNE, "method": method}))
    assert found["prune"].seconds is not None
    assert found["prune"].gpu_memory_bytes is not None
    by_block = {**method, "training": {**RECOVERY, "scope": "block"}}
    less = expected(request(prune={**PRUNE, "method": by_block}))["prune"].gpu_memory_bytes
    assert less is not None
    assert less < found["prune"].gpu_memory_bytes


def test_the_table_of_the_docs_is_that_of_the_model() -> None:
    page = (Path(__file__).parents[3] / "docs" / "estimates.md").read_text()
    for row in rows():
        assert row in page, "docs/estimates.md differs from `python -m pipeline.planning.table`"
