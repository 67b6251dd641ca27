"""Finished jobs in a local store, whose published directory can be changed and verified again."""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pipeline.artifacts.artifact import FileRef
from pipeline.artifacts.refs import ArtifactRef, CheckpointRef, KeepRef, PublishedRef
from pipeline.artifacts.tensor_index import TensorEntry, TensorIndex
from pipeline.checkpoint.scan import TensorScan, read_header
from pipeline.dag.stages.results import Verify
from pipeline.job.events import EventBody
from pipeline.job.ledger import JobResult, WorkOrder
from pipeline.request.prune_spec import JobRequest
from pipeline.storage import ContentStore, LocalStore
from tests.models import tiny_checkpoint
from workers.context import Made, StageContext
from workers.local.job import order_for, run_here
from workers.settings import WorkerSettings
from workers.stages import verify

PRUNE = {"method": {"kind": "magnitude"}, "pattern": {"kind": "nm", "keep": 2, "group": 4}}
DOCUMENTS = ("README.md", "secateur.json", "certificate.json")


class Silent:
    """See Reporter: it tells nobody."""

    revoked = False

    def emit(self, body: EventBody) -> None:
        """Nobody is told."""

    def close(self, deadline_seconds: float) -> None:
        """Nothing remains to deliver."""


@dataclass(frozen=True)
class FinishedJob:
    """A job that has ended. `root`: the directory with its store."""

    root: Path
    order: WorkOrder
    published: PublishedRef
    checkpoint: CheckpointRef
    keep: KeepRef | None

    @property
    def content(self) -> ContentStore:
        """The job's store."""
        return ContentStore(LocalStore(self.root / "storage"))

    @property
    def directory(self) -> Path:
        """The published directory, as it lies in the store."""
        return self.root / "storage" / self.published.prefix

    def copied(self, root: Path) -> "FinishedJob":
        """The same job in a store of its own, before it was verified."""
        shutil.copytree(self.root / "storage", root / "storage")
        copy = replace(self, root=root)
        for name in ("manifest.json", "verification.json", "provenance.json"):
            (copy.directory / name).unlink(missing_ok=True)
        return copy

    def listed_anew(self) -> "FinishedJob":
        """The job as if it had made the files that lie in the published directory now."""
        content, files = self.content, []
        tensors: dict[str, TensorEntry] = {}
        for path in sorted(one for one in self.directory.rglob("*") if one.is_file()):
            name = str(path.relative_to(self.directory))
            chunks = [path.read_bytes()]
            if name.endswith(".safetensors") and "/" not in name:
                names = {tensor.name for tensor in read_header(path)[1]}
                scan = TensorScan(name, unread=names)  # NaN is found by the verification alone
                blob = content.put_stream(scan.through(chunks))
                tensors |= scan.entries
            else:
                blob = content.put_stream(chunks)
            files.append(FileRef(path=name, blob=blob))
        index = CheckpointRef.put(content, TensorIndex(tensors=tensors))
        of_model = [one for one in files if "/" not in one.path and one.path not in DOCUMENTS]
        return replace(
            self,
            published=PublishedRef(files=tuple(files), prefix=self.published.prefix),
            checkpoint=CheckpointRef(files=(*of_model, index)),
        )

    def with_true_digests(self) -> "FinishedJob":
        """`listed_anew`, with a side file that has the digests of these files."""
        now = {file.path: file.blob.digest for file in self.listed_anew().published.files}
        path = self.directory / "secateur.json"
        side = json.loads(path.read_text())
        for listed in (side["digests"]["weights"], side["digests"]["tokenizer"]):
            listed |= {name: now[name] for name in listed if name in now}
            for name in [name for name in listed if name not in now]:
                del listed[name]
        path.write_text(json.dumps(side))
        return self.listed_anew()

    def verify(self) -> Made:
        """Run the stage."""
        inputs: dict[str, ArtifactRef] = {"published": self.published, "checkpoint": self.checkpoint}
        if self.keep is not None:
            inputs["keep"] = self.keep
        settings = WorkerSettings.model_validate({"storage_url": f"file://{self.root}/storage"})
        context = StageContext(
            node="verify", key="0" * 64, order=self.order, inputs=inputs, earlier=(), settings=settings
        )
        *_, made = verify.run(Verify(), context)
        assert isinstance(made, Made)
        return made


def finished_job(
    root: Path,
    kind: str,
    *,
    made: Callable[[Path], object] = lambda model: None,
    memory: str = "8GiB",
    checkpoint: dict[str, Any] | None = None,
    **spec: Any,
) -> FinishedJob:
    """Run a job on a tiny model below `root`. `made`: what is done to the model's directory before."""
    model = tiny_checkpoint(kind, root / "model", **(checkpoint or {}))
    made(model)
    request = JobRequest.model_validate(
        {
            "spec": {"model": {"source": f"file:{model}"}, **(spec or {"prune": PRUNE})},
            "resources": {"cpus_per_worker": 1, "memory_per_worker": memory},
        }
    )
    settings = WorkerSettings.model_validate(
        {"storage_url": f"file://{root}/storage", "allowed_roots": (Path("/"),)}
    )
    order = order_for(request, settings)
    return _finished(root, order, run_here(order, settings, Silent()))


def _finished(root: Path, order: WorkOrder, result: JobResult) -> FinishedJob:
    nodes = {node.node: node.artifacts for node in result.nodes}
    published = nodes["publish"]["published"]
    assert isinstance(published, PublishedRef)
    last = next(name for name in ("prune", "slice", "cut_vocabulary") if name in nodes)
    checkpoint, keep = nodes[last]["checkpoint"], nodes[last].get("keep")
    assert isinstance(checkpoint, CheckpointRef)
    assert keep is None or isinstance(keep, KeepRef)
    return FinishedJob(root, order, published, checkpoint, keep)
