"""Whose an attempt is: leases run out, are lost, and are given up."""

import socket
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import update

from api.db.models import Job
from api.service.jobs import attempts, leases
from tests.api.background.dispatching import RESULT, Scene

pytestmark = pytest.mark.servers


def _run_out_leases(scene: Scene) -> None:
    """As if their time had passed."""
    with scene.api.services.database.write() as session:
        session.execute(update(Job).values(lease_until=datetime.now(UTC) - timedelta(seconds=1)))


def test_leases_run_out(scene: Scene) -> None:
    job = scene.post()
    first = scene.dispatcher(lease_seconds=600)
    first.round()
    second = scene.dispatcher(owner="another")
    second.round()
    scene.stores_result(job)
    scene.ray.end("SUCCEEDED")
    second.round()
    assert scene.job(job)["status"] == "queued"  # still the first one's
    _run_out_leases(scene)
    second.round()
    assert scene.job(job)["status"] == "succeeded"


def test_who_lost_the_lease_changes_nothing(scene: Scene) -> None:
    job = scene.post()
    first = scene.dispatcher(lease_seconds=600)
    first.round()
    (stale,) = leases.claim_live(scene.api.services.database, first._lease)
    _run_out_leases(scene)
    second = scene.dispatcher(owner="another")
    second.round()
    with pytest.raises(leases.LeaseLost):
        attempts.succeed(scene.api.services.database, first._lease, stale, RESULT)
    assert scene.job(job)["status"] == "queued"


def test_the_dead_on_this_machine_are_not_waited_for(scene: Scene) -> None:
    scene.post()
    scene.dispatcher().round()
    with scene.api.services.database.write() as session:
        session.execute(update(Job).values(lease_owner=f"{socket.gethostname()[:60]}/999999@1"))
    dispatcher = scene.dispatcher()
    assert leases.claim_live(scene.api.services.database, dispatcher._lease) == []
    dispatcher._release_the_dead()
    assert len(leases.claim_live(scene.api.services.database, dispatcher._lease)) == 1


def test_a_service_that_is_stopped_takes_no_try(scene: Scene) -> None:
    job, dispatcher = scene.post(), scene.dispatcher()
    dispatcher.round()
    dispatcher._interrupt_all()
    assert scene.job(job)["status"] == "queued"
    with scene.api.services.database.read() as session:
        row = session.get(Job, job)
    assert row is not None
    assert (row.tries, row.live) == (0, False)
    dispatcher.round()
    assert scene.ray.submissions[-1].submission_id == f"{job}-2"
