"""Whatever is sent, the running API answers, and never with a 5xx of its own making."""

import functools
import json
from collections.abc import Iterator

import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis.checks import not_a_server_error
from schemathesis.generation.meta import TestPhase
from schemathesis.pytest.lazy import get_all_tests
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from api.docs import ROOT
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
SCHEDULE = "fuzzed"
LEANS_ON_RAY = "/readyz"  # there is no Ray here
OPENAPI = ROOT / "docs" / "openapi.json"  # another test keeps it fresh
OPERATIONS = [
    (method, path)
    for path, methods in json.loads(OPENAPI.read_text())["paths"].items()
    for method in methods
    if path != LEANS_ON_RAY
]
# The thousands of cases that break each rule of a job's body once are sent to POST /jobs: none of them to a
# route with the same body, and none to those of schedules, whose templates are such bodies.
SAME_BODY_AS_JOBS = "/plans"
TEMPLATE = "JobTemplate-Input"

SETTINGS = settings(
    max_examples=30,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)

pytestmark = [pytest.mark.servers, pytest.mark.slow]


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


@functools.cache
def described(*, coverage: bool) -> schemathesis.BaseSchema:
    """The API by its own description. `coverage`: with the cases that break each rule of a body once."""
    config = schemathesis.Config.from_dict({"phases": {"coverage": {"enabled": coverage}}})
    document = json.loads(OPENAPI.read_text())
    document["components"]["schemas"][TEMPLATE] = {"type": "object"}
    return schemathesis.openapi.from_dict(document, config=config)


@pytest.mark.parametrize(("method", "path"), OPERATIONS)
def test_nothing_breaks_the_api(method: str, path: str, fuzzed: RunningApi) -> None:
    """The cases of an operation are made when its test runs. They are 20,000 together, and `parametrize` of
    schemathesis would make them in every collection, which takes half a minute."""
    schema = described(coverage=path != SAME_BODY_AS_JOBS)
    operation = schema.include(method=method.upper(), path=path)
    (made,) = get_all_tests(schema=operation, test_func=sent, settings=SETTINGS, given_kwargs=None)
    made.ok()[1](api=fuzzed)


def sent(case: schemathesis.Case, api: RunningApi) -> None:
    """One request, and once more with an id that exists where the path has one."""
    if "id" not in case.path_parameters:
        call(case, api)
        return
    if not (case.method == "PATCH" and case.meta is not None and case.meta.phase.name == TestPhase.COVERAGE):
        call(case, api)
    # The thousands of cases that vary the body of a PATCH are sent with this id alone.
    about_schedules = case.path.startswith("/schedules")
    case.path_parameters["id"] = SCHEDULE if about_schedules else succeeded_job(api)
    if call(case, api).status_code == 404 and about_schedules:
        make_schedule(api)
        call(case, api)


def succeeded_job(api: RunningApi) -> str:
    return str(api.client.get("/jobs?status=succeeded").json()["data"][0]["id"])


def make_schedule(api: RunningApi) -> None:
    """A schedule of our own, which is fit to be run; it is made again when it is gone."""
    made = {"name": SCHEDULE, "cron": {"expression": "0 0 * * *"}, "template": body()}
    assert api.client.post("/schedules", json=made).status_code in (201, 409)


def call(case: schemathesis.Case, api: RunningApi) -> schemathesis.Response:
    """Send it with a good key, but to drivers' routes."""
    headers = {} if case.path.startswith("/internal") else AUTHORIZED
    return case.call_and_validate(base_url=api.url, headers=headers, timeout=120, checks=CHECKS)
