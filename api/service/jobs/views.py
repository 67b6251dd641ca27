"""Jobs as users see them, as plain models, which the client shares."""

from typing import Literal

from pydantic import Field

from pipeline.canonical import Frozen
from pipeline.errors import Blame
from pipeline.evaluation.job_comparison import JobComparison
from pipeline.job.estimate import Estimate
from pipeline.job.events import Event
from pipeline.job.state import StageStatus, Status
from pipeline.request.prune_spec import PruneSpec
from pipeline.request.resources import Resources
from pipeline.serving.expected import Expectation


class JobErrorView(Frozen):
    """The reason why a job failed. `blame`: whose failure it is: the user's, the machine's, or a bug of ours;
    null for jobs of older versions. `node` and `log` name the places to look at."""

    code: str
    message: str
    blame: Blame | None = None
    param: str | None = None
    node: str | None = None
    log: str | None = None


class StageView(Frozen):
    """One node of the DAG. Times are Unix seconds."""

    node: str
    stage: str
    needs: tuple[str, ...]
    status: StageStatus
    done: float
    total: float
    unit: str
    started_at: float | None
    finished_at: float | None
    note: str | None


class Links(Frozen):
    """The addresses of the other resources of a job."""

    self: str
    events: str
    logs: str
    artifacts: str
    report: str


class JobView(Frozen):
    """A job. Times are Unix seconds; `progress` is in [0, 1].

    `unread` is set if another version of Secateur stored the job and this one does not understand all of it.
    It names the first field; `spec` and `resources` are then without such fields, or null, and the status may
    be `unknown`. The job waits for a process of that version.
    """

    id: str
    object: Literal["job"] = "job"
    created_at: int
    started_at: int | None
    finished_at: int | None
    status: Status | Literal["unknown"]
    stage: str | None = Field(description="The stage that runs now.")
    progress: float
    error: JobErrorView | None
    name: str | None
    labels: dict[str, str]
    priority: int
    model: str
    attempt: int
    reproduces: str | None = Field(default=None, description="The job whose work is done again and compared.")
    stages: tuple[StageView, ...]
    spec: PruneSpec | None
    resources: Resources | None
    unread: str | None = None
    links: Links


class JobList(Frozen):
    """A page of jobs, newest first. `next` is the `after` of the next page."""

    object: Literal["list"] = "list"
    data: tuple[JobView, ...]
    has_more: bool
    next: str | None


class EventList(Frozen):
    """A page of events, oldest first. `next` is the `after` of the next page, also when it is still empty."""

    object: Literal["list"] = "list"
    data: tuple[Event, ...]
    has_more: bool
    next: int


class FileView(Frozen):
    """One file of an artifact. `url` downloads it."""

    path: str
    size: int
    sha256: str
    url: str


class ArtifactView(Frozen):
    """One artifact that a node of a job has made. `digest` is over kind, paths and contents."""

    node: str
    artifact: str
    kind: str
    digest: str
    size: int
    cached: bool
    files: tuple[FileView, ...]


class ArtifactList(Frozen):
    """All artifacts that a job has made so far."""

    object: Literal["list"] = "list"
    data: tuple[ArtifactView, ...]
    has_more: bool = False
    next: None = None


class ComparedJob(Frozen):
    """A job in a comparison. `recipe`: its spec in one line; `final`: the model that it has published, pruned
    or recovered."""

    id: str
    name: str | None
    model: str
    recipe: str
    final: str


class ComparisonView(JobComparison):
    """Jobs side by side, in the order in which they were asked for."""

    object: Literal["comparison"] = "comparison"
    jobs: tuple[ComparedJob, ...]


class PlanNodeView(Frozen):
    """One stage of a plan. `key` is null while a stage before it has no stored result."""

    node: str
    stage: str
    needs: tuple[str, ...]
    key: str | None
    cached: bool


class InputView(Frozen):
    """One source, pinned. `param` is its field in the request."""

    param: str
    source: str
    size: int
    files: int


class PlanView(Frozen):
    """The plan of a job that is not run. `bytes` is the size of all inputs together. `estimates`: the time
    and memory that stages are expected to take if nothing is cached. `serving`: what the result will gain in
    each target of the spec."""

    object: Literal["plan"] = "plan"
    nodes: tuple[PlanNodeView, ...]
    inputs: tuple[InputView, ...]
    bytes: int
    resources: Resources
    estimates: tuple[Estimate, ...] = ()
    serving: tuple[Expectation, ...] = ()
    warnings: tuple[str, ...]
