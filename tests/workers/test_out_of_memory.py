"""Out of memory is tried once, and the message names stage, need, limit and the field to change."""

from pathlib import Path
from typing import Any

import pytest
import ray.exceptions
import torch

from pipeline.dag.next_actions import MAX_STAGE_TRIES, decide
from pipeline.request.resources import Resources
from workers.failures import reason_for
from workers.kills import Began, ended_by_kernel, kernel_kills, killed_for_memory

ON_GPU = torch.OutOfMemoryError(
    "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79.10 GiB of which "
    "1.02 GiB is free."
)
IN_TRITON = RuntimeError("Triton Error [CUDA]: out of memory")
ON_HOST = RuntimeError(
    "[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"
)
MONITOR = (
    "Task was killed due to the node running low on memory.\nMemory on the node (IP: 10.0.0.7, ID: ab) where "
    "the task (task ID: cd, name=prune, pid=7) was running was 15.20GB / 16.00GB (0.95), which exceeds the "
    "memory usage threshold of 0.95."
)
RESOURCES = Resources.model_validate(
    {
        "workers": 2,
        "memory_per_worker": "16GiB",
        "pruning": {"memory_per_worker": "12GiB"},
        "recovery": {"gpus_per_worker": 1},
    }
)


def actor_killed_by_monitor() -> ray.exceptions.RayActorError:
    return ray.exceptions.RayActorError(error_msg=f"The actor died. NODE_OUT_OF_MEMORY {MONITOR}")


@pytest.mark.parametrize(
    ("error", "stage", "part", "field", "words"),
    [
        (ON_GPU, "prune", "pruning", "resources.accelerator_type", ["2.00 GiB", "79.10 GiB", "GPU memory"]),
        (IN_TRITON, "prune", "pruning", "resources.accelerator_type", ["GPU memory"]),
        (ON_GPU, "recover", "recovery", "resources.recovery.micro_batch_size", ["79.10 GiB", "lower it"]),
        (ON_GPU, "evaluate_task", "evaluation", "spec.evaluation.tasks.batch_size", ["lower it"]),
        (
            ON_HOST,
            "prune",
            "pruning",
            "resources.pruning.memory_per_worker",
            ["12GiB", "8 bytes", "raise it"],
        ),
        (MemoryError(), "behave", "evaluation", "resources.memory_per_worker", ["16GiB", "raise it"]),
        (
            ray.exceptions.OutOfMemoryError(MONITOR),
            "prune",
            "pruning",
            "resources.pruning.memory_per_worker",
            ["15.20GB / 16.00GB", "12GiB"],
        ),
        (
            actor_killed_by_monitor(),
            "learn_masks",
            "recovery",
            "resources.recovery.micro_batch_size",
            ["15.20GB / 16.00GB", "raise resources.memory_per_worker"],
        ),
    ],
)
def test_it_is_final_and_says_what_to_change(
    error: Exception, stage: str, part: Any, field: str, words: list[str]
) -> None:
    reason = reason_for(error, node="x", stage=stage, share=RESOURCES.of(part))
    assert (reason.code, reason.param, reason.blame, reason.retryable) == (
        "out_of_memory",
        field,
        "user",
        False,
    )
    assert decide(reason, tries=1, limit=MAX_STAGE_TRIES).action == "fail"
    for word in [f"stage {stage}", field, *words]:
        assert word in reason.message, reason.message
    assert "\n" not in reason.message


def test_any_other_death_is_tried_again() -> None:
    """Ray guesses at the kernel's out-of-memory killer in the text of every signal 9."""
    guess = ray.exceptions.RayActorError(
        error_msg="Worker exit type: SYSTEM_ERROR. (1) the process is killed by SIGKILL by OOM killer due to "
        "high memory usage. (2) ray stop --force is called."
    )
    for error in (guess, ray.exceptions.WorkerCrashedError()):
        reason = reason_for(error, node="x", stage="prune", share=RESOURCES.of("pruning"))
        assert (reason.code, reason.retryable) == ("worker_lost", True)


class TestTheKernelsCount:
    @pytest.mark.parametrize(
        ("files", "count"),
        [
            (
                {
                    "proc/self/cgroup": "0::/pod/worker\n",
                    "sys/fs/cgroup/pod/worker/memory.events": "low 0\noom 4\noom_kill 3\n",
                    "sys/fs/cgroup/memory.events": "oom_kill 9\n",
                },
                3,
            ),
            ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/memory.events": "oom 1\noom_kill 2\n"}, 2),
            (
                {
                    "proc/self/cgroup": "7:cpu:/a\n4:hugetlb,memory:/a\n",
                    "sys/fs/cgroup/memory/a/memory.oom_control": "under_oom 0\noom_kill 5\n",
                },
                5,
            ),
            ({"proc/self/cgroup": "0::/\n", "proc/vmstat": "nr_free_pages 1\noom_kill 7\n"}, 7),
            ({}, None),
        ],
        ids=["its own group", "a container", "version 1", "a machine", "nobody counts"],
    )
    def test_the_narrowest_count_is_read(
        self, tmp_path: Path, files: dict[str, str], count: int | None
    ) -> None:
        for name, text in files.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(text)
        assert kernel_kills(tmp_path) == count

    def test_only_the_death_of_a_process_is_asked_about(self) -> None:
        """No Ray runs here: it would be an error to ask it."""
        assert not killed_for_memory(ray.exceptions.GetTimeoutError(), [Began(node="a", kills=0)])

    def test_its_error_names_stage_limit_and_field(self) -> None:
        error = ended_by_kernel("prune", RESOURCES.of("pruning"))
        assert (error.code, error.param) == ("out_of_memory", "resources.pruning.memory_per_worker")
        assert all(word in error.message for word in ("stage prune", "12GiB", "the kernel ended it"))
