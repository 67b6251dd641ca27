"""What a stage says while it waits for its workers, and when it stops waiting.

A cluster may have to start nodes first, so a stage waits for `placement_timeout_seconds`. It is refused at
once only on a cluster that says by a label that it never grows, and that is too small.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import ray

from pipeline.errors import ResourcesUnavailable
from pipeline.request.parts import WorkerShare

PATIENCE_SECONDS = 5.0  # before a note says what is waited for
FIXED = {"secateur/cluster": "fixed"}  # a label of the nodes of a cluster that never grows
Node = Mapping[str, Any]  # as ray.nodes() describes it


def check_possible(share: WorkerShare, *, workers: int | None = None) -> None:
    """Raise ResourcesUnavailable if the workers can never have a place. `workers`: the number that is needed,
    by default all of the share."""
    nodes = _alive()
    needed = share.workers if workers is None else workers
    if nodes and all(_is_fixed(node) for node in nodes) and room(share, nodes) < needed:
        raise ResourcesUnavailable(
            f"this cluster never grows, and has room for {room(share, nodes)} of {share}; it has "
            f"{_readable(_sum(nodes))} in all; lower {share.field('workers')} or what each asks for",
            share.field("workers"),
        )


def why_waiting(share: WorkerShare) -> str:
    """What the workers wait for, as a note says it."""
    nodes = _alive()
    found = room(share, nodes)
    free = f"free now: {_readable(ray.available_resources())}"
    limit = f"for at most {share.placement_timeout_seconds} s"
    if found >= share.workers:
        return f"waiting {limit} for {share}; {free}"
    return (
        f"waiting {limit} for {share}, until the cluster has more nodes: its {len(nodes)} have room for "
        f"{found} such workers; {free}"
    )


def gave_up(share: WorkerShare) -> ResourcesUnavailable:
    """The error of a stage that has waited long enough."""
    nodes = _alive()
    return ResourcesUnavailable(
        f"the cluster did not give {share} within {share.placement_timeout_seconds} s; it has "
        f"{_readable(_sum(nodes))} in all, and its {len(nodes)} nodes have room for {room(share, nodes)} "
        f"such workers; lower {share.field('workers')} or what each asks for, or raise "
        f"resources.placement_timeout_seconds if nodes take longer to start",
        share.field("workers"),
    )


def room(share: WorkerShare, nodes: Sequence[Node]) -> int:
    """The number of workers that fit onto the nodes while nobody else uses them."""
    return sum(_room_of(share, node["Resources"]) for node in nodes)


def _room_of(share: WorkerShare, whole: Mapping[str, float]) -> int:
    return min(int(whole.get(name, 0) / size + 1e-9) for name, size in share.bundle.items())


def _alive() -> list[Node]:
    return [node for node in ray.nodes() if node["Alive"]]


def _is_fixed(node: Node) -> bool:
    labels = node.get("Labels") or {}
    return all(labels.get(name) == value for name, value in FIXED.items())


def _sum(nodes: Sequence[Node]) -> dict[str, float]:
    names = "CPU", "GPU", "memory"
    return {name: sum(node["Resources"].get(name, 0) for node in nodes) for name in names}


def _readable(resources: Mapping[str, float]) -> str:
    return (
        f"{resources.get('CPU', 0):g} CPUs, {resources.get('GPU', 0):g} GPUs, "
        f"{resources.get('memory', 0) / 2**30:.1f} GiB memory"
    )
