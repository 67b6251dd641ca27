"""Tells whether a process that is gone was ended by the kernel for want of memory.

Ray cannot tell that from any other signal 9. The kernel counts such deaths in each control group, and a
container is one: if the count of the node where the process ran has risen since the process began, memory is
the reason.
"""

import contextlib
from pathlib import Path

import ray
from ray.exceptions import GetTimeoutError, RayActorError, RayError, WorkerCrashedError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from pipeline.canonical import Frozen
from pipeline.errors import OutOfMemory
from pipeline.request.parts import WorkerShare
from workers.classified import out_of_memory

ASK_SECONDS = 60.0  # for a process that counts on the node; it has to start first


class Began(Frozen):
    """The node where a process began, and the node's count at that time; None if it keeps none."""

    node: str
    kills: int | None


def began_here() -> Began:
    """The node of this process, which is a task or an actor."""
    return Began(node=ray.get_runtime_context().get_node_id(), kills=kernel_kills())


def killed_for_memory(error: BaseException, processes: list[Began]) -> bool:
    """Tells whether `error` is the death of a process, and the kernel has ended a process for want of memory
    on one of the nodes since these began. A node that is gone is not asked."""
    if not isinstance(error, (RayActorError, WorkerCrashedError)):
        return False
    first = {one.node: one.kills for one in reversed(processes) if one.kills is not None}
    there = {node["NodeID"] for node in ray.nodes() if node["Alive"]}
    return any((_kills_on(node) or 0) > kills for node, kills in first.items() if node in there)


def ended_by_kernel(stage: str | None, share: WorkerShare | None) -> OutOfMemory:
    """The error of a stage whose process the kernel ended for want of memory."""
    said = "the kernel ended it, because its machine or container had none left"
    return out_of_memory(said, stage=stage, share=share, device=False)


def kernel_kills(root: Path = Path("/")) -> int | None:
    """The number of processes that the kernel ended for want of memory, in the control group of this process;
    on a machine without control groups, on the machine. None if the kernel does not say."""
    for path, name in _counters(root):
        with contextlib.suppress(OSError):
            for line in path.read_text().splitlines():
                key, _, count = line.partition(" ")
                if key == name:
                    return int(count)
    return None


def _counters(root: Path) -> list[tuple[Path, str]]:
    """The files that may have the count, with the name of its line, the narrowest first."""
    groups = root / "sys/fs/cgroup"
    found = []
    with contextlib.suppress(OSError):
        for line in (root / "proc/self/cgroup").read_text().splitlines():
            _, controllers, group = line.split(":", 2)
            if not controllers:  # version 2
                found.append((groups / group.lstrip("/") / "memory.events", "oom_kill"))
            elif "memory" in controllers.split(","):  # version 1
                found.append((groups / "memory" / group.lstrip("/") / "memory.oom_control", "oom_kill"))
    return [
        *found,
        (groups / "memory.events", "oom_kill"),
        (groups / "memory/memory.oom_control", "oom_kill"),
        (root / "proc/vmstat", "oom_kill"),
    ]


def _kills_on(node: str) -> int | None:
    there = NodeAffinitySchedulingStrategy(node, soft=False)
    asked = ray.remote(num_cpus=0, max_retries=0)(kernel_kills).options(scheduling_strategy=there).remote()
    try:
        found: int | None = ray.get(asked, timeout=ASK_SECONDS)
    except (RayError, GetTimeoutError):
        return None
    return found
