"""The gang of an attempt: as many actors as the job's resources say, in the places reserved for them."""

from collections.abc import Sequence

import ray
from ray.actor import ActorHandle
from ray.util.placement_group import PlacementGroup, remove_placement_group
from torch import Tensor

from pipeline.blocks.crew import shares_of
from pipeline.spec.model import Dtype
from pipeline.tensor.statistics import share_edges
from workers.context import StageContext
from workers.gang.crew import RayCrew, SweepActor


class Gang:
    """The actors, which stay from stage to stage. For each stage they become a RayCrew."""

    def __init__(self, group: PlacementGroup, actors: Sequence[ActorHandle[SweepActor]]) -> None:
        self._group = group
        self._actors = tuple(actors)

    def ready(self) -> None:
        """Wait until the processes of all actors have started."""
        ray.get([actor.__ray_ready__.remote() for actor in self._actors])

    def open(self, context: StageContext, sequences: Sequence[Tensor], dtype: Dtype) -> RayCrew:
        """Begin a stage on all actors: each gets a contiguous share of the sequences."""
        edges = share_edges(len(sequences), len(self._actors))
        args = context.settings, context.checkpoint()
        resources = context.order.request.resources
        shares = shares_of(sequences, len(self._actors))
        ray.get(
            [
                actor.open.remote(
                    *args, share, dtype, first=first, samples=len(sequences), resources=resources
                )
                for actor, share, first in zip(self._actors, shares, edges, strict=False)
            ]
        )
        return RayCrew(self._actors, title=context.node)

    def close(self) -> None:
        """End a stage on all actors."""
        ray.get([actor.close.remote() for actor in self._actors])

    def dismiss(self) -> None:
        """Free the reserved places, which also ends the actors."""
        remove_placement_group(self._group)
