"""The site of an attempt: where its stages run, a Ray cluster or this process."""

from collections.abc import Sequence
from typing import Protocol

from pipeline.artifacts.curve import StepRecord, Validation
from pipeline.dag.stages import Stage
from workers.context import StageContext, Steps


class Metrics(Protocol):
    """Takes figures of running stages, by node, for whoever scrapes them."""

    def progressed(self, node: str, *, done: float, total: float) -> None:
        """Finished and all units of a stage."""
        ...

    def trained(self, node: str, record: StepRecord) -> None:
        """A step of a training."""
        ...

    def validated(self, node: str, validation: Validation) -> None:
        """A validation of a training."""
        ...


class Site(Protocol):
    """Runs stages."""

    @property
    def workers(self) -> int:
        """The number of stages in the place of a worker that run at once."""
        ...

    @property
    def threads(self) -> int | None:
        """The number of stages that run at once in all; None sets no limit."""
        ...

    @property
    def metrics(self) -> Metrics:
        """Where figures of running stages go."""
        ...

    def prepare(self, stages: Sequence[Stage]) -> None:
        """Import the runners that this process needs, before there are threads: two threads that import parts
        of one library at once may see them half made. Raises an error for a stage that cannot run here."""
        ...

    def launch(self, stage: Stage, context: StageContext) -> Steps:
        """Run a stage where it belongs, passing on what it yields."""
        ...
