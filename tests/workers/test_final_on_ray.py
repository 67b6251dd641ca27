"""A real Ray Train whose worker is really killed: for want of memory it is tried once, else again."""

import os
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
from ray import train as ray_train
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer

from pipeline.job.ledger import progress_key
from pipeline.request.resources import Resources
from tests.workers.training_runs import Prepared
from workers.kills import began_here
from workers.training.final import FAILURE, Failure, NoSecondTry, began_key
from workers.training.work import Work

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]  # Ray Data warns of itself
SHARE = Resources(memory_per_worker="1GiB").of("recovery")


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """One node. Its processes find the tests too."""
    root = str(Path(__file__).resolve().parents[2])
    with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as directory:
        ray.init(
            address="local",
            num_cpus=2,
            include_dashboard=False,
            log_to_driver=False,
            runtime_env={"env_vars": {"PYTHONPATH": root}},
            _temp_dir=directory,
        )
        yield
        ray.shutdown()


def dies_at_first(config: dict[str, Any]) -> None:
    """As a worker of training: it tells where it began, and ends where its failure is stored."""
    work: Work = config["work"]
    content = work.settings.content()
    starts = Path(config["starts"])
    starts.write_text(starts.read_text() + "x" if starts.exists() else "x")
    if content.find_model(progress_key(work.key, FAILURE), Failure) is not None:
        return
    if starts.read_text() == "x":
        began = began_here()
        assert began.kills is not None, "the kernel keeps a count"
        began = began.model_copy(update={"kills": began.kills - config["counted"]})
        content.put_model(began_key(work, ray_train.get_context().get_world_rank()), began)
        os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize("counted", [0, 1], ids=["lost", "out of memory"])
def test_a_killed_worker(cluster: None, tiny: Prepared, tmp_path: Path, counted: int) -> None:
    """`counted`: how many deaths for want of memory the kernel has counted since the worker began."""
    work = tiny.work(key=f"killed-{counted}")
    trainer = TorchTrainer(
        dies_at_first,
        train_loop_config={"work": work, "counted": counted, "starts": str(tmp_path / "starts")},
        scaling_config=ScalingConfig(num_workers=1, resources_per_worker={"CPU": 1}),
        run_config=RunConfig(
            storage_path=str(tmp_path / "runs"),
            failure_config=FailureConfig(max_failures=3),
            callbacks=[NoSecondTry(work, SHARE)],
        ),
    )
    trainer.fit()
    assert (tmp_path / "starts").read_text() == "xx"
    failure = tiny.content.find_model(progress_key(work.key, FAILURE), Failure)
    assert (failure is not None) is bool(counted)
    if failure is not None:
        assert (failure.reason.code, failure.reason.retryable) == ("out_of_memory", False)
        assert "the kernel ended it" in failure.reason.message
