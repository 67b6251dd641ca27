"""Notes about a checkpoint are among the warnings of POST /plans."""

from collections.abc import Callable

import pytest

from api.settings import Settings
from pipeline.request.prune_spec import PruneSpec
from pipeline.sources.pins import Pins
from tests.api.conftest import running
from tests.made_pins import FACTS, made_pins

NOTE = "the tokenizer has added tokens beyond the rows"


def noted(spec: PruneSpec) -> Pins:
    return made_pins(spec, facts=FACTS.model_copy(update={"notes": (NOTE,)}))


@pytest.mark.servers
def test_a_plan_shows_the_notes_of_the_model(make_settings: Callable[..., Settings]) -> None:
    prune = {"method": {"kind": "magnitude"}, "pattern": {"kind": "unstructured", "sparsity": 0.5}}
    with running(make_settings(), resolver=noted) as api:
        answer = api.client.post("/plans", json={"spec": {"model": {"source": "file:/m"}, "prune": prune}})
    assert NOTE in answer.json()["warnings"]
