"""Whatever is sent, the running API answers, and never with a 5xx of its own making."""

from collections.abc import Iterator

import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from api.docs import DOCS
from api.service.jobs import attempts
from api.service.jobs.logs import log_key
from api.settings import Settings
from pipeline.job.ledger import JobResult
from tests.api.attempts import LEASE, started_job
from tests.api.bodies import body
from tests.api.conftest import AUTHORIZED, RunningApi, free_port, running

CHECKS = (
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
)
LEANS_ON_RAY = ["/readyz"]  # here there is none


@pytest.fixture(scope="module")
def fuzzed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningApi]:
    """An API of its own: what is sent leaves jobs behind."""
    state = tmp_path_factory.mktemp("fuzzed")
    with running(Settings(state_dir=state, port=free_port(), ray_address="http://127.0.0.1:9")) as api:
        driver = started_job(api)
        attempts.succeed(api.services.database, LEASE, driver.live, JobResult(nodes=()))
        api.services.content.store.put(log_key(driver.live.job, 1), [b"a log"])
        attempts.note_log_stored(api.services.database, driver.live)
        yield api


schema = schemathesis.openapi.from_path(DOCS / "openapi.json")  # another test keeps it fresh


@schema.exclude(path=LEANS_ON_RAY).parametrize()
@settings(
    max_examples=30,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)
def test_nothing_breaks_the_api(case: schemathesis.Case, fuzzed: RunningApi) -> None:
    call(case, fuzzed)
    if "id" in case.path_parameters:  # once more, with one that is there
        about_schedules = case.path.startswith("/schedules")
        case.path_parameters["id"] = schedule(fuzzed) if about_schedules else succeeded_job(fuzzed)
        call(case, fuzzed)


def succeeded_job(api: RunningApi) -> str:
    return str(api.client.get("/jobs?status=succeeded").json()["data"][0]["id"])


def schedule(api: RunningApi) -> str:
    """One of our own, made again when it was deleted: what others are made of is not fit to be run."""
    made = {"name": "fuzzed", "cron": {"expression": "0 0 * * *"}, "template": body()}
    assert api.client.post("/schedules", json=made).status_code in (201, 409)
    return "fuzzed"


def call(case: schemathesis.Case, api: RunningApi) -> None:
    """Send it with a good key, but to drivers' routes."""
    headers = {} if case.path.startswith("/internal") else AUTHORIZED
    case.call_and_validate(base_url=api.url, headers=headers, timeout=30, checks=CHECKS)
