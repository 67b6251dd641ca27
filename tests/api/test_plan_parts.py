"""What POST /plans says of the resources of a job's parts."""

from collections.abc import Callable, Iterator

import pytest

from api.settings import Settings
from tests.api.conftest import RunningApi, running
from tests.api.test_plans import large, learning, planned


@pytest.fixture
def api(make_settings: Callable[..., Settings]) -> Iterator[RunningApi]:
    """An API that knows how large models are."""
    with running(make_settings(), resolver=large) as api:
        yield api


def test_a_plan_shows_the_parts_and_measures_each_by_its_own_size(api: RunningApi) -> None:
    request = learning()
    parts = {"recovery": {"memory_per_worker": "1GiB"}, "evaluation": {"workers": 2, "cpus_per_worker": 2}}
    found = planned(api, request, memory_per_worker="64GiB", **parts)
    assert found["resources"]["evaluation"] == {"workers": 2, "cpus_per_worker": 2}
    assert "pruning" not in found["resources"]
    (warning,) = (one for one in found["warnings"] if "mask learning needs" in one)
    assert warning.startswith("resources.recovery.memory_per_worker is 1GiB")


def test_cpus_of_workers_with_gpus_are_shown(api: RunningApi) -> None:
    assert planned(api, learning(), gpus_per_worker=1)["resources"]["cpus_per_worker"] == 4


def test_a_part_with_a_wrong_field_is_refused_by_its_path(api: RunningApi) -> None:
    resources = {"evaluation": {"gpus_per_worker": 1.5}}
    answer = api.client.post("/plans", json={**learning(), "resources": resources})
    assert answer.status_code == 422
    assert answer.json()["error"]["param"] == "resources.evaluation.gpus_per_worker"
