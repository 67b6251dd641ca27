"""What POST /plans says of jobs that train."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from api.settings import Settings
from pipeline.request.prune_spec import PruneSpec
from pipeline.sources.pins import ModelFacts, Pins
from tests.api.bodies import body
from tests.api.conftest import RunningApi, running
from tests.made_pins import made_pins

TEXT = {"source": "file:/texts/books.txt", "sequence_length": 128}
TRAINING = {"text": TEXT, "steps": 100, "global_batch_size": 8}


@pytest.fixture
def api(make_settings: Callable[..., Settings]) -> Iterator[RunningApi]:
    """An API that knows how large models are: a hundred million weights."""
    with running(make_settings(), resolver=large) as api:
        yield api


def large(spec: PruneSpec) -> Pins:
    facts = ModelFacts(
        model_type="llama", blocks=10, max_positions=2048, hidden_size=1000, parameters=100_000_000
    )
    return made_pins(spec, facts=facts)


def learning(*, prior: dict[str, Any] | None = None, **training: Any) -> dict[str, Any]:
    """A request that learns 2:4 masks."""
    method = {"kind": "maskllm", "prior": prior, "training": {**TRAINING, **training}}
    prune = {"method": method, "pattern": {"kind": "nm", "keep": 2, "group": 4}}
    return {"spec": {"model": {"source": "file:/models/tiny"}, "prune": prune}}


def planned(api: RunningApi, request: dict[str, Any], **resources: Any) -> dict[str, Any]:
    answer = api.client.post("/plans", json={**request, "resources": resources})
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def test_learned_masks_name_their_inputs(api: RunningApi) -> None:
    prior = {"kind": "stored", "source": "file:/masks/keep.safetensors"}
    request = learning(prior=prior)
    request["spec"]["prune"]["compare_with"] = [{"name": "code", "source": "file:/masks/code.safetensors"}]
    found = planned(api, request, memory_per_worker="64GiB")
    assert [given["param"] for given in found["inputs"]] == [
        "spec.model.source",
        "spec.prune.method.prior.source",
        "spec.prune.method.training.text.source",
        "spec.prune.compare_with.0.source",
    ]
    assert [node["stage"] for node in found["nodes"] if node["node"] == "prune"] == ["learn_masks"]


def test_memory_of_mask_learning_is_warned_of(api: RunningApi) -> None:
    split = {"recovery": {"zero_stage": 2}, "workers": 2}
    enough = planned(api, learning(), memory_per_worker="8GiB", **split)["warnings"]
    assert not any("memory_per_worker" in warning or "recovery" in warning for warning in enough)
    [little] = [
        warning for warning in planned(api, learning(), **split)["warnings"] if "mask learning" in warning
    ]
    assert "about 3.3 GiB on each of 2 workers" in little
    assert "masked 381.5 MiB, logits 572.2 MiB, step 286.1 MiB, activations" in little
    assert (
        "libraries 572.2 MiB): raise it, or use more workers with resources.recovery.zero_stage 3" in little
    )
    assert "scope block in spec.prune.method.training" in little
    block = planned(api, learning(scope="block", steps=1000), memory_per_worker="1GiB", **split)["warnings"]
    [one] = [warning for warning in block if "mask learning" in warning]
    assert "activations 3.8 GiB, libraries" in one
    assert "fewer tokens" in one


def test_masks_without_held_out_text_have_no_curve_of_it(api: RunningApi) -> None:
    warnings = planned(api, learning(text={**TEXT, "validation_sequences": 0}))["warnings"]
    assert any("spec.prune.method.training.text.validation_sequences is 0" in one for one in warnings)


def test_how_training_is_split_is_unused_where_nothing_trains(api: RunningApi) -> None:
    request = body()
    warnings = planned(api, request, recovery={"zero_stage": 2})["warnings"]
    assert any(one.startswith("resources.recovery is not used") for one in warnings)


def test_recovery_is_warned_of_as_before(api: RunningApi) -> None:
    spec = {**body()["spec"], "recovery": TRAINING}
    [little] = [
        one
        for one in planned(api, {"spec": spec}, memory_per_worker="1GiB")["warnings"]
        if "needs about" in one
    ]
    assert "recovery training needs about 2.2 GiB on each of 1 workers (weights" in little
    assert "zero_stage 3, precision bfloat16, or trains kind lora" in little
