"""A worker of training that ran out of memory is not started again: its reason is stored for it."""

import pytest
import ray.exceptions
from ray.train.v2._internal.exceptions import WorkerHealthCheckFailedError

from pipeline.job.ledger import progress_key
from pipeline.request.resources import Resources
from tests.workers.test_out_of_memory import MONITOR, actor_killed_by_monitor
from tests.workers.training_runs import Prepared
from workers.training.final import FAILURE, Failure, NoSecondTry
from workers.training.work import Work

SHARE = Resources(memory_per_worker="12GiB").of("recovery")


def stored(tiny: Prepared, work: Work) -> Failure | None:
    return tiny.content.find_model(progress_key(work.key, FAILURE), Failure)


@pytest.mark.parametrize(
    ("key", "error"),
    [
        ("monitor", ray.exceptions.OutOfMemoryError(MONITOR)),
        ("health", WorkerHealthCheckFailedError("worker 1 is gone", failure=actor_killed_by_monitor())),
    ],
)
def test_the_reason_is_stored(tiny: Prepared, key: str, error: Exception) -> None:
    work = tiny.work(key=key)
    lost = ray.exceptions.RayActorError(error_msg="Connection closed by peer")
    NoSecondTry(work, SHARE).after_exception(None, {0: lost, 1: error})
    failure = stored(tiny, work)
    assert failure is not None
    assert (failure.reason.code, failure.reason.retryable) == ("out_of_memory", False)
    for word in ("stage recover", "12GiB", "15.20GB", "resources.recovery.micro_batch_size"):
        assert word in failure.reason.message


def test_any_other_death_is_left_to_ray_train(tiny: Prepared) -> None:
    work = tiny.work(key="lost")
    lost = ray.exceptions.RayActorError(error_msg="the node is gone")
    NoSecondTry(work, SHARE).after_exception(None, {0: lost})
    assert stored(tiny, work) is None
