"""The nodes of a Ray cluster that are about to be taken away.

Ray marks such a node: when an autoscaler or `ray drain-node` asks for it, as after a cloud's notice, and when
its own `ray start --block` gets SIGTERM, as from Kubernetes at the end of a pod. Nothing new is placed there,
and its processes go on until the notice is over.
"""

from ray._private.state import state  # Ray's own libraries look here too; nothing public tells it
from ray.exceptions import RayError


def leaving_nodes() -> frozenset[str]:
    """The ids of these nodes; none while Ray's head cannot be asked, which ends no stage by itself."""
    try:
        return frozenset(state.get_draining_nodes())
    except RayError:
        return frozenset()
