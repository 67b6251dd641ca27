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
from api.service import attempts
from api.service.logs import log_key
from api.settings import Settings
from pipeline.ledger import JobResult
from tests.api.attempts import LEASE, started_job
from tests.api.conftest import RunningApi, free_port, running

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
    case.call_and_validate(base_url=fuzzed.url, timeout=30, checks=CHECKS)
    if "id" in case.path_parameters:  # once more, with a job that is there
        case.path_parameters["id"] = fuzzed.client.get("/jobs?status=succeeded").json()["data"][0]["id"]
        case.call_and_validate(base_url=fuzzed.url, timeout=30, checks=CHECKS)
