"""Training on Ray Train: the function that each worker runs, the place of checkpoints, and reports to the
driver."""

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.fs
import torch
from ray import train as ray_train
from ray.actor import ActorHandle
from ray.train import Checkpoint, CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer

from pipeline.job.ledger import progress_key
from pipeline.request.parts import WorkerShare
from pipeline.request.resources import Resources
from workers.context import Step
from workers.failures import reason_for
from workers.kills import began_here
from workers.settings import WorkerSettings
from workers.training.final import FAILURE, Failure, NoSecondTry, began_key
from workers.training.mailbox import Mailbox
from workers.training.work import TrainingResult, Work

RESULT = "trained"  # a name below the stage's progress key
FOLDER = "training"


@dataclass(frozen=True)
class Assignment:
    """The arguments that every worker is started with."""

    work: Work
    share: WorkerShare
    mailbox: ActorHandle[Mailbox]


class RayTrainRuntime:
    """See TrainingRuntime."""

    def __init__(self, mailbox: ActorHandle[Mailbox]) -> None:
        self._mailbox = mailbox

    @contextlib.contextmanager
    def restored(self) -> Iterator[Path | None]:
        """The latest checkpoint of this run that Ray Train has."""
        checkpoint = ray_train.get_checkpoint()
        if checkpoint is None:
            yield None
            return
        with checkpoint.as_directory() as directory:
            yield Path(directory)

    def save(self, directory: Path, *, step: int) -> None:
        """Let Ray Train merge the files of all workers into a checkpoint. It keeps the last two."""
        ray_train.report({"step": step}, checkpoint=Checkpoint.from_directory(directory))

    def preempted(self) -> bool:
        """Tells whether a node with one of the workers is being drained."""
        return ray_train.get_preemption_info() is not None

    def tell(self, step: Step) -> None:
        """Send a step to the driver without waiting; if the driver is gone, it is lost."""
        self._mailbox.put.remote(step)


def trainer_for(
    work: Work, resources: Resources, *, mailbox: ActorHandle[Mailbox], settings: WorkerSettings
) -> TorchTrainer:
    """The training run of a stage. Its name is the stage key, so that a run that is started again continues
    from its last checkpoint."""
    path, filesystem = _training_storage(settings)
    asked, share = resources.recovery, resources.of("recovery")
    workers = share.workers
    count: Any = workers if asked.min_workers in (None, workers) else (asked.min_workers, workers)
    return TorchTrainer(
        train_loop_per_worker=_on_worker,
        train_loop_config={"assignment": Assignment(work, share, mailbox)},
        scaling_config=ScalingConfig(
            num_workers=count,
            use_gpu=work.cuda,
            resources_per_worker=share.bundle,
            placement_strategy="STRICT_PACK" if asked.one_node else "PACK",
        ),
        run_config=RunConfig(
            name=work.key,
            storage_path=path,
            storage_filesystem=filesystem,
            failure_config=FailureConfig(max_failures=asked.max_failures),
            checkpoint_config=CheckpointConfig(num_to_keep=2),
            worker_runtime_env={  # type: ignore[call-arg]  # an argument of Train V2; mypy sees V1
                "env_vars": _environment(work, threads=share.cpus_per_worker)
            },
            callbacks=[NoSecondTry(work, share)],  # type: ignore[list-item]  # mypy sees V1
        ),
    )


def forget_training(work: Work, settings: WorkerSettings) -> None:
    """Delete the training checkpoints of a stage whose result is stored."""
    path, filesystem = _training_storage(settings)
    with contextlib.suppress(FileNotFoundError):
        filesystem.delete_dir(f"{path}/{work.key}")


def _on_worker(config: dict[str, Assignment]) -> None:
    assignment = config["assignment"]
    work = assignment.work
    content = work.settings.content()
    if content.find_model(progress_key(work.key, FAILURE), Failure) is not None:
        return  # another worker has stored why training cannot continue; the driver reads it
    torch.set_num_threads(assignment.share.cpus_per_worker)
    rank = ray_train.get_context().get_world_rank()
    content.put_model(began_key(work, rank), began_here())
    try:
        result = _started(assignment)
    except Exception as error:
        reason = reason_for(error, node=None, stage=work.stage.kind, share=assignment.share)
        if not reason.retryable:
            content.put_model(progress_key(work.key, FAILURE), Failure(reason=reason))
        raise
    if rank == 0:
        content.put_model(progress_key(work.key, RESULT), result)


def _started(assignment: Assignment) -> TrainingResult:
    from workers.training.engine import prepare_process
    from workers.training.start import start  # here: DeepSpeed chooses its accelerator when it is imported

    prepare_process(cuda=assignment.work.cuda)
    return start(assignment.work, RayTrainRuntime(assignment.mailbox))


def _environment(work: Work, *, threads: int) -> dict[str, str]:
    names = {"OMP_NUM_THREADS": str(threads), "TOKENIZERS_PARALLELISM": "false"}
    return names if work.cuda else {**names, "DS_ACCELERATOR": "cpu"}


def _training_storage(settings: WorkerSettings) -> tuple[str, pyarrow.fs.FileSystem]:
    """The path and pyarrow filesystem where Ray Train keeps checkpoints: a folder of the job's storage."""
    scheme, _, location = settings.storage_url.partition("://")
    path = f"{location.rstrip('/')}/{FOLDER}"
    if scheme == "file":
        Path(path).mkdir(parents=True, exist_ok=True)
        return path, pyarrow.fs.LocalFileSystem()
    s3 = settings.s3
    # As patient as pipeline/storage/s3.py; Arrow's own default is 3 s without an answer.
    options: dict[str, object] = {"connect_timeout": 10, "request_timeout": 60}
    if s3.endpoint_url is not None:
        endpoint_scheme, _, endpoint = s3.endpoint_url.partition("://")
        options |= {"endpoint_override": endpoint.rstrip("/"), "scheme": endpoint_scheme}
    if s3.keys is not None:
        options |= dict(zip(("access_key", "secret_key"), s3.keys, strict=True))
    return path, pyarrow.fs.S3FileSystem(region=s3.region or os.environ.get("AWS_REGION"), **options)
