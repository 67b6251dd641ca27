"""The ledger of finished work: stage results, which are written last, and the keys of all stored objects.

blobs/sha256/ab/<digest>          content (storage/content.py)
stages/<stage key>.json           StageResult: its presence is the commit mark
progress/<stage key>/<part>.json  finished parts of a stage that is still running (one block, say)
published/<name>-<key>/...        ordinary Hugging Face directories, manifest.json once they are verified
jobs/<job>/attempts/<n>/order.json  what the driver of that attempt works on
jobs/<job>/result.json            what the job made: the artifacts of every node
"""

from collections.abc import Iterable
from datetime import datetime

from pydantic import Field

from pipeline.artifacts.artifact import FileRef
from pipeline.artifacts.refs import ArtifactRef, ManifestRef, PublishedRef
from pipeline.canonical import Frozen
from pipeline.request.prune_spec import JobRequest
from pipeline.sources.pins import Pins
from pipeline.storage.content import ContentStore


class Measured(Frozen):
    """The cost of a stage. It is never part of a digest. `device`: the GPU that it ran on, by its driver's
    name; a stage on CPUs has none."""

    seconds: float
    peak_memory_bytes: int | None = None
    details: dict[str, float] = Field(default_factory=dict)
    device: str | None = Field(default=None, exclude_if=lambda device: device is None)


class StageResult(Frozen):
    """A finished stage."""

    kind: str
    version: int
    key: str
    artifacts: dict[str, ArtifactRef]
    measured: Measured
    made_at: datetime


class NodeResult(Frozen):
    """The result of one node of one job, new or from the cache."""

    node: str
    key: str
    cached: bool
    artifacts: dict[str, ArtifactRef]
    measured: Measured


class JobResult(Frozen):
    """Every node of a succeeded job."""

    nodes: tuple[NodeResult, ...]

    def artifacts(self, node: str) -> dict[str, ArtifactRef]:
        """Artifacts of one node."""
        for result in self.nodes:
            if result.node == node:
                return result.artifacts
        raise KeyError(node)


def manifest_of(nodes: Iterable[NodeResult]) -> ManifestRef | None:
    """The manifest of what a job published; None if it has published nothing. `verify` makes it; in jobs of
    earlier versions `publish` made it."""
    artifacts = (artifact for node in nodes for artifact in node.artifacts.values())
    return next((one for one in artifacts if isinstance(one, ManifestRef)), None)


class WorkOrder(Frozen):
    """The order for the driver of one attempt. It lies in storage, so that no secret passes through Ray.

    `report_to`: address of the API; None when the driver reports to a terminal only. `token` is valid for
    this attempt only. `reproduces`: the job whose work is done again, under keys of its own, and compared.
    """

    job: str
    attempt: int
    request: JobRequest
    pins: Pins
    report_to: str | None = None
    token: str | None = Field(default=None, repr=False)
    reproduces: str | None = None

    @property
    def salt(self) -> str | None:
        """The part of every stage key that no other job has, where nothing stored may be taken."""
        return None if self.reproduces is None else self.job


def stage_result_key(key: str) -> str:
    """The storage key of a stage's result."""
    return f"stages/{key}.json"


def progress_key(key: str, part: str) -> str:
    """The storage key of a finished part of a running stage."""
    return f"progress/{key}/{part}.json"


def order_key(job: str, attempt: int) -> str:
    """The storage key of an attempt's order."""
    return f"jobs/{job}/attempts/{attempt}/order.json"


def job_result_key(job: str) -> str:
    """The storage key of a succeeded job's result."""
    return f"jobs/{job}/result.json"


def find_result(content: ContentStore, key: str) -> StageResult | None:
    """A stored stage result whose files are all there; None when the stage must run."""
    stored = content.find_model(stage_result_key(key), StageResult)
    if stored is None:
        return None
    return stored if all(_is_there(content, artifact) for artifact in stored.artifacts.values()) else None


def _is_there(content: ContentStore, artifact: ArtifactRef) -> bool:
    if artifact.kind == "manifest" and content.store.stat(artifact.key) is None:
        return False
    if artifact.kind == "published" and not all(_lies(content, artifact, file) for file in artifact.files):
        return False
    return all(content.has(file.blob) for file in artifact.files)


def _lies(content: ContentStore, published: PublishedRef, file: FileRef) -> bool:
    found = content.store.stat(f"{published.prefix}/{file.path}")
    return found is not None and found.size == file.blob.size
