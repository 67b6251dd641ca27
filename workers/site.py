"""The site of an attempt runs its stages: on a Ray cluster, or in this process."""

from collections.abc import Sequence
from typing import Protocol

from pipeline.artifacts.curve import StepRecord, Validation
from pipeline.dag.stages import Stage
from workers.context import StageContext, Steps


class Metrics(Protocol):
    """Publishes figures of running stages, by node."""

    def progressed(self, node: str, *, done: float, total: float) -> None:
        """Publish the numbers of finished and of all units of a stage."""
        ...

    def trained(self, node: str, record: StepRecord) -> None:
        """Publish a step of a training."""
        ...

    def validated(self, node: str, validation: Validation) -> None:
        """Publish a validation of a training."""
        ...


class Site(Protocol):
    """Runs the stages of an attempt."""

    @property
    def workers(self) -> int:
        """The number of stages, each in the place of one worker, that may run at once."""
        ...

    @property
    def threads(self) -> int | None:
        """The number of stages that may run at once in all; None sets no limit."""
        ...

    @property
    def metrics(self) -> Metrics:
        """The publisher of figures of running stages."""
        ...

    def prepare(self, stages: Sequence[Stage]) -> None:
        """Import the runners that this process needs, before it starts threads: two threads that import parts
        of one library at once may see them half initialised. Raises an error for a stage that cannot run
        here."""
        ...

    def launch(self, stage: Stage, context: StageContext) -> Steps:
        """Run a stage in its place, and yield its steps."""
        ...
