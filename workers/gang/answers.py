"""Answers of actors that wait for one another: the failure of one is seen while others still wait for it."""

from collections.abc import Sequence
from typing import Any, TypeVar

import ray
from ray.exceptions import RayTaskError
from torch import Tensor

from workers.gang.peers import PeersLost

Answer = TypeVar("Answer")
GRACE_SECONDS = 10  # for the news of a death, after the news of a broken connection


def fetched(
    references: Sequence["ray.ObjectRef[Answer]"], *, beside: Sequence["ray.ObjectRef[None]"] = ()
) -> list[Answer]:
    """Returns the answers in their order. Raises the first error that arrives, of them or of the calls
    `beside` them, without waiting for the rest; that of a broken connection only if within some seconds no
    other one tells why it broke."""
    found: dict[ray.ObjectRef[Any], Any] = {}
    left: list[ray.ObjectRef[Any]] = list(dict.fromkeys((*references, *beside)))
    broken: BaseException | None = None
    wanted = set(references)
    while left and (wanted or broken is not None):
        ready, left = ray.wait(left, num_returns=1, timeout=None if broken is None else GRACE_SECONDS)
        if not ready:
            break
        try:
            found[ready[0]] = ray.get(ready[0])
            wanted.discard(ready[0])
        except RayTaskError as error:
            if not isinstance(error.cause, PeersLost):
                raise
            broken = broken or error
    if broken is not None:
        raise broken
    return [found[reference] for reference in references]


def tensor_bytes(value: object) -> int:
    """Returns the bytes of all tensors in the arguments or the answer of a call."""
    if isinstance(value, Tensor):
        return value.nbytes
    if isinstance(value, dict):
        return sum(tensor_bytes(one) for one in value.values())
    if isinstance(value, (list, tuple)):
        return sum(tensor_bytes(one) for one in value)
    if type(value).__module__.startswith("pipeline."):
        return tensor_bytes(getattr(value, "__dict__", {}))
    return 0
