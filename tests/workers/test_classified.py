"""What becomes of exceptions that are not of our own tree."""

import errno
import json
from pathlib import Path

import httpx
import pytest
import ray.exceptions
import torch

from pipeline.errors import StorageUnavailable, WorkerLost
from pipeline.job.events import FailureReason
from tests.models import tiny_checkpoint, tiny_text
from workers.failures import error_for, reason_for
from workers.job import AttemptEnded
from workers.local.job import order_for, run_here
from workers.settings import WorkerSettings


class Silent:
    revoked = False

    def __init__(self) -> None:
        self.events: list = []

    def emit(self, body: object) -> None:
        self.events.append(body)

    def close(self, deadline_seconds: float) -> None:
        pass


def in_a_task(error: Exception) -> ray.exceptions.RayTaskError:
    """An error as `ray.get` raises it: the cause has no traceback, the text has the worker's."""
    return ray.exceptions.RayTaskError("f", str(error), error).as_instanceof_cause()


@pytest.mark.parametrize(
    ("error", "blame"),
    [
        (KeyError("weight"), "bug"),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied (3x4 and 5x6)"), "bug"),
        (ValueError("rope"), "bug"),
        (FileNotFoundError(errno.ENOENT, "No such file", "config.json"), "bug"),
        (PermissionError(errno.EACCES, "Permission denied", "model"), "bug"),
        (OSError("Can't load the configuration of 'x'"), "bug"),  # as transformers says it
        (OSError(errno.ENOSPC, "No space left on device"), "machine"),
        (OSError(errno.EIO, "Input/output error"), "machine"),
        (OSError("When reading information for key 'x': AWS Error NETWORK_CONNECTION"), "machine"),
        (ConnectionResetError(errno.ECONNRESET, "Connection reset by peer"), "machine"),
        (TimeoutError("slow"), "machine"),
        (httpx.ConnectError("refused"), "machine"),
        (RuntimeError("[../gloo/transport/tcp/pair.cc:534] Connection closed by peer"), "machine"),
        (torch.distributed.DistBackendError("NCCL error"), "machine"),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), "user"),
        (MemoryError(), "user"),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"), "user"),
        (ray.exceptions.NodeDiedError("gone"), "machine"),
        (ray.exceptions.ObjectStoreFullError("full"), "machine"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_every_exception_has_one_class_also_out_of_a_ray_task(error: Exception, blame: str) -> None:
    reasons = [reason_for(error, node="prune")]
    if not isinstance(error, ray.exceptions.RayError):
        reasons.append(reason_for(in_a_task(error), node="prune"))
    for reason in reasons:
        assert (reason.blame, reason.retryable) == (blame, blame == "machine"), reason


@pytest.mark.parametrize(
    ("stage", "field"),
    [
        ("recover", "resources.recovery.micro_batch_size"),
        ("evaluate_task", "spec.evaluation.tasks.batch_size"),
        ("prune", "resources.accelerator_type"),
    ],
)
def test_out_of_memory_names_the_field_that_helps(stage: str, field: str) -> None:
    reason = reason_for(torch.OutOfMemoryError("CUDA out of memory"), node="x", stage=stage)
    assert (reason.code, reason.param) == ("out_of_memory", field)
    assert field in reason.message


def test_an_actor_that_could_not_be_made_tells_its_own_error() -> None:
    """Ray keeps only the text of it."""
    text = "Traceback ...\n  File 'x', line 1\npipeline.errors.StorageUnavailable: the store is away"
    away = ray.exceptions.RayTaskError("f", text, StorageUnavailable("the store is away"))
    reason = reason_for(ray.exceptions.ActorDiedError(away), node="prune")
    assert (reason.code, reason.retryable) == ("storage_unavailable", True)
    assert reason.message == "the store is away"
    broken = ray.exceptions.RayTaskError("f", "Traceback ...\nKeyError: 'lm_head.weight'", KeyError())
    reason = reason_for(ray.exceptions.ActorDiedError(broken), node="prune")
    assert (reason.blame, reason.message) == ("bug", "KeyError: 'lm_head.weight'")


def test_reasons_become_errors_of_the_same_class_again() -> None:
    for error in (WorkerLost("gone"), KeyError("x"), MemoryError()):
        reason = reason_for(error, node=None)
        again = reason_for(error_for(reason), node=None)
        assert again == reason


def test_reasons_of_older_versions_are_read() -> None:
    old = '{"code":"worker_lost","message":"gone","param":null,"node":null,"retryable":true,"log":null}'
    assert FailureReason.model_validate_json(old).blame is None


def test_a_bug_in_a_stage_is_tried_once_and_tells_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pipeline.request.prune_spec import JobRequest
    from workers.stages import import_model

    model, text = tiny_checkpoint("llama", tmp_path / "model"), tiny_text(tmp_path)
    tries = []

    def broken(*arguments: object) -> None:
        tries.append(arguments)
        json.loads('{"a": 1}')["b"]

    monkeypatch.setattr(import_model, "import_checkpoint", broken)
    request = JobRequest.model_validate(
        {
            "spec": {
                "model": {"source": f"file:{model}"},
                "prune": {
                    "method": {"kind": "magnitude"},
                    "pattern": {"kind": "unstructured", "sparsity": 0.5},
                },
                "evaluation": {"perplexity": [{"source": f"file:{text}", "sequence_length": 16}]},
            }
        }
    )
    settings = WorkerSettings(storage_url=f"file://{tmp_path}/store", allowed_roots=(tmp_path,))
    with pytest.raises(AttemptEnded) as caught:
        run_here(order_for(request, settings), settings, Silent())
    reason = caught.value.reason
    assert (reason.blame, reason.retryable, len(tries)) == ("bug", False, 1)
    assert reason.message.startswith("KeyError: 'b', at workers/stages/import_model.py:")
    assert reason.message.endswith(" in run")
