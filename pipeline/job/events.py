"""The typed events of a job. Drivers emit them, the API stores them, everyone follows them."""

from datetime import datetime
from typing import Annotated, Literal, get_args

from pydantic import Field

from pipeline.artifacts.curve import StepRecord, Validation
from pipeline.canonical import Frozen
from pipeline.errors import Blame
from pipeline.job.ledger import NodeResult


class FailureReason(Frozen):
    """The reason of a failure: stable code, sentence, field (if the request is at fault), node and log.

    `blame`: the class of the failure: the user's, the machine's, or a bug of ours. Reasons that were stored
    before there were classes have none.
    """

    code: str
    message: str
    param: str | None = None
    node: str | None = None
    retryable: bool = True
    blame: Blame | None = None
    log: str | None = None


class NodePlanned(Frozen):
    """One node of the DAG that the driver planned at the start."""

    node: str
    stage: str
    needs: tuple[str, ...]


class JobQueued(Frozen):
    """The job was accepted, or waits for its next attempt."""

    type: Literal["job.queued"] = "job.queued"


class JobCancelRequested(Frozen):
    """A user asked to stop the job."""

    type: Literal["job.cancel_requested"] = "job.cancel_requested"


class JobCancelled(Frozen):
    """The job stopped as asked."""

    type: Literal["job.cancelled"] = "job.cancelled"


class JobFailed(Frozen):
    """No further attempt will be made."""

    type: Literal["job.failed"] = "job.failed"
    reason: FailureReason


class JobSucceeded(Frozen):
    """The job is done and all its artifacts are stored."""

    type: Literal["job.succeeded"] = "job.succeeded"


class AttemptSubmitted(Frozen):
    """The attempt was submitted to Ray."""

    type: Literal["attempt.submitted"] = "attempt.submitted"
    submission_id: str


class AttemptStarted(Frozen):
    """The driver runs and has planned the DAG."""

    type: Literal["attempt.started"] = "attempt.started"
    nodes: tuple[NodePlanned, ...]


class AttemptFailed(Frozen):
    """The driver gave up or died."""

    type: Literal["attempt.failed"] = "attempt.failed"
    reason: FailureReason


class AttemptFinished(Frozen):
    """The driver did all its work; the result is stored."""

    type: Literal["attempt.finished"] = "attempt.finished"


class StageStarted(Frozen):
    """Work on a stage began."""

    type: Literal["stage.started"] = "stage.started"
    node: str
    key: str


class StageProgress(Frozen):
    """A stage has done `done` of `total` units (blocks, windows, megabytes)."""

    type: Literal["stage.progress"] = "stage.progress"
    node: str
    done: float
    total: float
    unit: str
    note: str | None = None


class StageRetried(Frozen):
    """A stage lost a worker and continues from its last stored part."""

    type: Literal["stage.retried"] = "stage.retried"
    node: str
    reason: FailureReason


class StageFinished(Frozen):
    """The artifacts of a stage were made, or found in the cache."""

    type: Literal["stage.finished"] = "stage.finished"
    result: NodeResult


class Message(Frozen):
    """A sentence that a user should read."""

    type: Literal["message"] = "message"
    level: Literal["info", "warning"] = "info"
    node: str | None = None
    text: str


class TrainingStep(Frozen):
    """One optimizer step of `total_steps`. Where steps are quick, not every one is reported."""

    type: Literal["training.step"] = "training.step"
    node: str
    total_steps: int
    record: StepRecord


class TrainingValidated(Frozen):
    """Training measured loss and perplexity on the held-out sequences."""

    type: Literal["training.validated"] = "training.validated"
    node: str
    validation: Validation


EventBody = Annotated[
    JobQueued
    | JobCancelRequested
    | JobCancelled
    | JobFailed
    | JobSucceeded
    | AttemptSubmitted
    | AttemptStarted
    | AttemptFailed
    | AttemptFinished
    | StageStarted
    | StageProgress
    | StageRetried
    | StageFinished
    | TrainingStep
    | TrainingValidated
    | Message,
    Field(discriminator="type"),
]


EVENT_TYPES: frozenset[str] = frozenset(
    member.model_fields["type"].default for member in get_args(get_args(EventBody)[0])
)


class DriverEvent(Frozen):
    """An event as a driver sends it. `sequence` counts from 1 in an attempt, so that repeats are ignored."""

    sequence: int = Field(ge=1)
    at: datetime
    body: EventBody


class Event(Frozen):
    """A stored event. `id` grows within the service and is the SSE `Last-Event-ID`."""

    id: int
    job: str
    attempt: int
    at: datetime
    body: EventBody
