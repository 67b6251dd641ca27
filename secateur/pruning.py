"""`prune` runs a whole prune job in this process."""

import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, JsonValue

from pipeline.artifacts.refs import ArtifactRef, ManifestRef, ReportRef
from pipeline.errors import InvalidSpec
from pipeline.job.events import EventBody
from pipeline.report.data import ReportDocument
from pipeline.report.sweep import SweepDocument, read_any_report
from pipeline.request.prune_spec import JobRequest
from pipeline.request.spec_files import Document, checked, load_document, located
from pipeline.spec.uri import file_uri
from pipeline.storage.content import ContentStore

Spec = Mapping[str, JsonValue] | BaseModel | str | Path


@dataclass(frozen=True)
class Pruned:
    """The result of `prune`. `directory`: the checkpoint with `report.html` and `report.json`. `report`: the
    content of the latter, with every figure."""

    directory: Path
    report: ReportDocument | SweepDocument


def prune(
    model_directory: str | Path,
    spec: Spec,
    out: str | Path,
    *,
    threads: int | None = None,
    gpu: bool = False,
    storage: str | Path | None = None,
    told: Callable[[EventBody], None] = lambda event: None,
) -> Pruned:
    """Prune a Hugging Face checkpoint into a new directory.

    `spec` is the `spec` of a job without its model, or the whole body of `POST /jobs`: a mapping, a pydantic
    model, or the path of a YAML or JSON file. Relative `file:` sources count from that file's directory, else
    from the working directory. `out` must not exist; it appears when everything in it is complete.

    `threads` defaults to `resources.cpus_per_worker`, else to all cores; equal numbers give equal bits. `gpu`
    runs the model on the first CUDA device. `storage` is a directory for finished stages and blocks, from
    which a later call continues; without it they are deleted at the end. `told` is called with every event of
    the job.

    Raises SecateurError: InvalidSpec for a spec that cannot be used, else the error of the stage that failed.
    """
    from pipeline.checkpoint.export import new_directory
    from workers.failures import error_for
    from workers.job import AttemptEnded
    from workers.local.job import order_for, run_here
    from workers.settings import WorkerSettings

    request = _request(Path(model_directory), spec, threads=threads, gpu=gpu)
    out = Path(out).absolute()
    with new_directory(out) as written, _storage(storage, beside=out) as stored:
        settings = WorkerSettings(storage_url=stored.resolve().as_uri(), allowed_roots=(Path("/"),))
        try:
            result = run_here(order_for(request, settings), settings, _FunctionReporter(told))
        except AttemptEnded as end:
            raise error_for(end.reason) from end
        made = [artifact for node in result.nodes for artifact in node.artifacts.values()]
        report = _export(settings.content(), made, written)
    return Pruned(out, read_any_report(report))


def _request(model: Path, spec: Spec, *, threads: int | None, gpu: bool) -> JobRequest:
    """The body of `POST /jobs` for a checkpoint on this machine."""
    document = _document(spec)
    inner = document.setdefault("spec", {})
    if not isinstance(inner, dict):
        raise InvalidSpec(f"spec must be a mapping, got {type(inner).__name__}", "spec")
    if inner.get("model") is not None:
        raise InvalidSpec(
            "the model is the directory that is given beside the spec; leave it out", "spec.model"
        )
    inner["model"] = {"source": file_uri(model)}
    resources = document.setdefault("resources", {})
    if isinstance(resources, dict):
        if threads is not None:
            resources["cpus_per_worker"] = threads
        resources.setdefault("cpus_per_worker", os.cpu_count() or 1)
        resources.setdefault("memory_per_worker", _memory())
        if gpu:
            resources["gpus_per_worker"] = 1
    return checked(document)


def _document(spec: Spec) -> Document:
    if isinstance(spec, str | Path):
        document = load_document(str(spec), [])
    elif isinstance(spec, BaseModel):
        document = spec.model_dump(mode="json", exclude_unset=True)
    else:
        document = located(dict(spec), Path.cwd())
    return document if "spec" in document else {"spec": document}


def _memory() -> str:
    """The memory of this machine, which activations share with everything else."""
    return f"{max(1, os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') // 2**30)}GiB"


@contextmanager
def _storage(asked: str | Path | None, *, beside: Path) -> Iterator[Path]:
    """The directory of stages and blocks: the one asked for, or one that is deleted after the call."""
    if asked is not None:
        path = Path(asked).absolute()
        path.mkdir(parents=True, exist_ok=True)
        yield path
        return
    beside.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{beside.name}.store.", dir=beside.parent) as name:
        yield Path(name)


def _export(content: ContentStore, made: list[ArtifactRef], directory: Path) -> bytes:
    """Write the published checkpoint and the report into a directory. Returns `report.json`."""
    for manifest in (one for one in made if isinstance(one, ManifestRef)):
        for found in content.store.list(f"{manifest.prefix}/"):
            target = directory / found.key.removeprefix(f"{manifest.prefix}/")
            target.parent.mkdir(parents=True, exist_ok=True)
            with target.open("wb") as written:
                written.writelines(content.store.get(found.key))
    report = next(one for one in made if isinstance(one, ReportRef))
    for file in report.files:
        (directory / file.path).write_bytes(content.get_bytes(file.blob))
    return content.get_bytes(report.file(ReportRef.JSON))


class _FunctionReporter:
    """See Reporter: it calls a function with every event."""

    revoked = False

    def __init__(self, report: Callable[[EventBody], None]) -> None:
        self._report = report

    def emit(self, body: EventBody) -> None:
        """Report one event."""
        self._report(body)

    def close(self, deadline_seconds: float) -> None:
        """Nothing remains to deliver: the function is called at once."""
