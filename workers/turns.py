"""The protocols by which a stage that walks the blocks gets its crew and reports the resources it took."""

from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import ParamSpec, Protocol, TypeVar

from torch import Tensor

from pipeline.artifacts.refs import ArtifactRef
from pipeline.blocks.crew import Crew, CrewUse
from pipeline.spec.model import Dtype
from workers.context import Made, Note, StageContext, Waited

P = ParamSpec("P")
Answer = TypeVar("Answer")


class Turn(Protocol):
    """One stage's time with the crew."""

    def open(
        self, context: StageContext, sequences: Sequence[Tensor], *, dtype: Dtype
    ) -> Generator[Note | Waited, None, Crew]:
        """Open the crew, with the stage's sequences embedded."""
        ...


class Places(Protocol):
    """The places of an attempt's workers on a cluster."""

    def alone(self) -> AbstractContextManager[None]:
        """Reserve the places, without the crew, for the length of a `with` block."""
        ...


class Keeper(Protocol):
    """The keeper of an attempt's crew. Stages that walk the blocks take turns on the crew."""

    def turn(self) -> AbstractContextManager[Turn]:
        """Wait until the crew is free, and take it for the length of a `with` block."""
        ...

    def once(self, name: str, work: Callable[P, Answer], *args: P.args, **kwargs: P.kwargs) -> Answer:
        """The result of a function that several stages of the attempt need. It is called for the first stage
        that asks, and again for the next one if it failed."""
        ...


def made_by(use: CrewUse, artifacts: Mapping[str, ArtifactRef], **details: float) -> Made:
    """Return the artifacts of a stage with the resources that its crew took."""
    return Made(
        artifacts,
        peak_memory_bytes=use.peak_bytes,
        details={**use.details, **details},
        device=None if use.device == "cpu" else use.device,
    )
