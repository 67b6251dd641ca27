"""How a stage that walks the blocks gets its crew, and tells the resources that the crew took."""

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
        """The crew, with the stage's sequences embedded."""
        ...


class Places(Protocol):
    """The places of an attempt's workers on a cluster."""

    def alone(self) -> AbstractContextManager[None]:
        """The places, without the crew, for the length of a block of code."""
        ...


class Keeper(Protocol):
    """Keeps the crew of an attempt: stages that walk the blocks take turns on it."""

    def turn(self) -> AbstractContextManager[Turn]:
        """The crew for the length of a block of code, once it is free."""
        ...

    def once(self, name: str, work: Callable[P, Answer], *args: P.args, **kwargs: P.kwargs) -> Answer:
        """The result of a function that several stages of the attempt need: it is called for the first that
        asks, and again for the next one if it failed."""
        ...


def made_by(use: CrewUse, artifacts: Mapping[str, ArtifactRef], **details: float) -> Made:
    """The artifacts of a stage with the resources that its crew took."""
    return Made(artifacts, peak_memory_bytes=use.peak_bytes, details={**use.details, **details})
