"""The gang of an attempt: as many actors as the job's resources say, in the places reserved for them."""

from collections.abc import Sequence
from typing import Any

import ray
from ray.actor import ActorHandle
from ray.util.placement_group import PlacementGroup, remove_placement_group
from torch import Tensor

from pipeline.blocks.crew import shares_of
from pipeline.spec.model import Dtype
from pipeline.tensor.statistics import share_edges
from workers.context import StageContext
from workers.gang.answers import fetched
from workers.gang.crew import RayCrew, SweepActor
from workers.kills import Began


class Gang:
    """The actors, which stay from stage to stage. For each stage they become a RayCrew."""

    def __init__(
        self, group: PlacementGroup, actors: Sequence[ActorHandle[SweepActor]], *, whole_gpus: bool
    ) -> None:
        self._group = group
        self._actors = tuple(actors)
        self._whole_gpus = whole_gpus
        self.began: list[Began] = []

    def ready(self) -> None:
        """Wait until the processes of all actors have started and become one process group."""
        self.began = fetched([actor.began.remote() for actor in self._actors])
        size = len(self._actors)
        if size > 1:
            first: Any = self._actors[0]  # Ray's types lose what its methods return
            place = fetched([first.meet.remote()])[0]
            fetched(
                [
                    actor.join.remote(place, rank=rank, size=size, whole_gpus=self._whole_gpus)
                    for rank, actor in enumerate(self._actors)
                ]
            )

    def open(self, context: StageContext, sequences: Sequence[Tensor], dtype: Dtype) -> RayCrew:
        """Begin a stage on all actors: each gets a contiguous share of the sequences."""
        edges = share_edges(len(sequences), len(self._actors))
        args = context.settings, context.checkpoint()
        share = context.order.request.resources.of("pruning")
        shares = shares_of(sequences, len(self._actors))
        ray.get(
            [
                actor.open.remote(*args, own, dtype, first=first, samples=len(sequences), share=share)
                for actor, own, first in zip(self._actors, shares, edges, strict=False)
            ]
        )
        return self.crew(title=context.node)

    def crew(self, *, title: str) -> RayCrew:
        """The actors, which a stage was begun on, as a crew. `title` names the stage."""
        return RayCrew(self._actors, title=title, nodes={one.node for one in self.began})

    def close(self) -> None:
        """End a stage on all actors."""
        ray.get([actor.close.remote() for actor in self._actors])

    def dismiss(self) -> None:
        """Free the reserved places, which also ends the actors."""
        remove_placement_group(self._group)
