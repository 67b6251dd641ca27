"""A job on a real Ray is reproduced: other processes, other keys, the same bytes. Its provenance is there."""

import json

import pytest

from api.service.jobs.views import JobView
from tests.attestations import check_statement
from tests.e2e.service import Service

pytestmark = pytest.mark.e2e


def test_a_job_gives_the_same_bytes_again(local_service: Service, small_job: JobView) -> None:
    first = small_job
    with local_service.client() as client:
        again = client.wait(client.reproduce(first.id).id)
        assert again.status == "succeeded", again.error
        assert {stage.status for stage in again.stages} == {"succeeded"}  # none was found in the cache
        document = client.report(again.id)
        found = document.data.reproduction
        assert found is not None
        assert found.identical, found
        assert (found.job, again.reproduces) == (first.id, first.id)
        (report,) = (one for one in client.artifacts(first.id).data if one.kind == "report")
        (file,) = (one for one in report.files if one.path == "provenance.json")
        statement = json.loads(b"".join(client.file(file)))
    check_statement(statement)
    assert statement["predicate"]["runDetails"]["metadata"]["invocationId"] == first.id
