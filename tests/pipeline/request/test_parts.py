"""Resources of the parts of a job: what a part leaves out comes from the fields of `resources` itself."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from pipeline.dag.nodes import node_key
from pipeline.dag.plan import plan
from pipeline.request.parts import PARTS
from pipeline.request.prune_spec import JobRequest
from pipeline.request.resources import Resources
from tests.made_pins import made_pins

SIZES = {
    "workers": st.integers(1, 64),
    "cpus_per_worker": st.integers(1, 64),
    "gpus_per_worker": st.sampled_from([0, 0.5, 1, 4]),
    "memory_per_worker": st.sampled_from(["2GiB", "48GiB", "1TiB"]),
    "accelerator_type": st.sampled_from(["H100", "A100-80G"]),
}
some_sizes = st.fixed_dictionaries({}, optional=SIZES)


@given(some_sizes, st.sampled_from(PARTS), some_sizes)
def test_a_part_has_what_it_says_and_else_what_the_job_says(whole: dict, part: str, own: dict) -> None:
    resources = Resources.model_validate({**whole, part: own})
    share = resources.of(part)  # type: ignore[arg-type]
    for name in SIZES:
        assert getattr(share, name) == own.get(name, getattr(resources, name))
        assert share.field(name) == (f"resources.{part}.{name}" if name in own else f"resources.{name}")
    for other in PARTS:
        if other != part:
            assert all(getattr(resources.of(other), name) == getattr(resources, name) for name in SIZES)
    assert Resources.model_validate_json(resources.model_dump_json()) == resources


def test_a_request_without_parts_is_stored_as_ever() -> None:
    stored = Resources(workers=2).model_dump(mode="json")
    assert not {"pruning", "evaluation", "accelerator_type"} & stored.keys()
    assert not {"cpus_per_worker", "gpus_per_worker", "one_node"} & stored["recovery"].keys()


def test_a_stored_request_means_what_it_meant() -> None:
    """Version 0.1 wrote every field, training's workers too."""
    stored = {
        "workers": 4,
        "cpus_per_worker": 1,
        "gpus_per_worker": 1.0,
        "memory_per_worker": "64GiB",
        "placement_timeout_seconds": 600,
        "recovery": {"zero_stage": 1, "workers": None, "min_workers": None},
    }
    resources = Resources.model_validate_json(json.dumps(stored))
    shares = [resources.of(part) for part in PARTS]
    assert len({share.size for share in shares}) == 1
    assert shares[0].bundle == {"CPU": 1, "memory": 64 * 2**30, "GPU": 1}
    assert shares[0].placement_timeout_seconds == 600


@pytest.mark.parametrize(("gpus", "cpus"), [(0, 1), (0.25, 1), (1, 4), (8, 32)])
def test_cpus_follow_the_gpus_where_they_are_left_out(gpus: float, cpus: int) -> None:
    assert Resources(gpus_per_worker=gpus).cpus_per_worker == cpus
    assert Resources(gpus_per_worker=gpus, cpus_per_worker=3).cpus_per_worker == 3


def test_a_large_model_may_take_three_sizes() -> None:
    resources = Resources.model_validate(
        {
            "workers": 4,
            "gpus_per_worker": 1,
            "memory_per_worker": "96GiB",
            "accelerator_type": "H100",
            "recovery": {"workers": 16, "zero_stage": 3},
            "evaluation": {"workers": 2, "gpus_per_worker": 4, "memory_per_worker": "256GiB"},
        }
    )
    pruning, recovery, evaluation = (resources.of(part) for part in PARTS)
    assert (pruning.workers, recovery.workers, evaluation.workers) == (4, 16, 2)
    assert (recovery.gpus_per_worker, evaluation.gpus_per_worker) == (1, 4)
    assert evaluation.bundle["accelerator_type:H100"] == 0.001
    assert str(evaluation) == "2 workers with 4 CPUs, 4 H100 GPUs and 256GiB each"


def request(resources: dict[str, Any], **changes: Any) -> JobRequest:
    recovery = {
        "text": {"source": "file:/text.txt", "sequence_length": 32},
        "objective": {"kind": "language_modelling"},
        "steps": 200,
        "global_batch_size": 8,
        **changes,
    }
    spec = {"model": {"source": "file:/model"}, "recovery": recovery}
    return JobRequest.model_validate({"spec": spec, "resources": resources})


def test_parts_are_in_no_key() -> None:
    keys = []
    for resources in ({}, {"evaluation": {"workers": 3}, "recovery": {"workers": 4, "one_node": True}}):
        asked = request(resources)
        keys.append([node_key(node, {}) for node in plan(asked.spec, made_pins(asked.spec)).nodes])
    assert keys[0] == keys[1]


def test_training_is_checked_against_its_own_part() -> None:
    four = {"gpus_per_worker": 4, "memory_per_worker": "48GiB"}
    with pytest.raises(ValidationError, match="one whole GPU"):
        request(four)
    request({**four, "recovery": {"gpus_per_worker": 1, "workers": 4}})
    with pytest.raises(ValidationError, match=r"(?s)resources.recovery.*gpus_per_worker.*one whole GPU"):
        request({"recovery": {"gpus_per_worker": 2}})
    request({"recovery": {"gpus_per_worker": 1}}, precision="float16")


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ({"gpus_per_worker": 1.5}, "a fraction of one GPU, or a whole number"),
        ({"memory_per_worker": "64GB"}, "KiB, MiB, GiB or TiB"),
        ({"accelerator_type": "H100 or so"}, "pattern"),
        ({"gpus": 1}, "gpus"),
    ],
)
def test_a_wrong_size_is_refused(part: dict, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Resources.model_validate({"evaluation": part})
