"""The stage that makes one page and one JSON with every figure, and the provenance of what was published."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from pipeline.artifacts.artifact import Document, FileRef
from pipeline.artifacts.manifest import Manifest
from pipeline.artifacts.refs import ArtifactRef, ManifestRef, ReportRef
from pipeline.dag.plan import plan
from pipeline.dag.stages.results import Report, ReportSweep
from pipeline.job.compare import compare_jobs
from pipeline.job.ledger import JobResult, NodeResult, job_result_key
from pipeline.job.reproduction import Reproduction
from pipeline.planning.estimate import estimates
from pipeline.report.data import ReportData, report_json
from pipeline.report.page import render_html
from pipeline.report.provenance import names_manifest, provenance
from pipeline.report.section import Section, read_sections
from pipeline.report.summary import seeds_of
from pipeline.request.prune_spec import PruneSpec
from workers.context import Made, StageContext, Steps
from workers.environment import code, environment


def run(stage: Report, context: StageContext) -> Steps:
    """Lay out figures that are read from artifacts. No figure is computed from weights here."""
    fields = {**section_fields(ReportData, stage, context), "seeds": seeds_of(stage.spec)}
    data = ReportData.model_validate(fields)
    statement = _attested(context, data)
    files = {
        ReportRef.PAGE: render_html(data).encode(),
        ReportRef.JSON: report_json(data),
        ReportRef.PROVENANCE: statement,
    }
    yield stored(context, files)


def section_fields(
    report: type[Section], stage: Report | ReportSweep, context: StageContext
) -> dict[str, object]:
    """The fields that the sections of a report read, and the facts of the job that all of them know."""
    request = context.order.request
    walks = request.resources.of("pruning")
    return {
        "model_name": stage.model_name,
        "job": context.order.job,
        "job_name": request.name,
        "spec": stage.spec,
        "pins": context.order.pins,
        "stages": context.earlier,
        "estimates": estimates(request, context.order.pins, plan(request.spec, context.order.pins).nodes),
        "environment": environment(
            threads=walks.cpus_per_worker,
            training=stage.spec.recovery is not None or stage.spec.learns_masks,
        ),
        "declared_memory_bytes": walks.memory_bytes,
        "reproduction": _reproduction(context),
        **read_sections(report, _ReportInputs(stage.spec, context)),
    }


def stored(context: StageContext, files: Mapping[str, bytes]) -> Made:
    """Store the files as the artifact."""
    refs = tuple(FileRef(path=path, blob=context.content.put_bytes(data)) for path, data in files.items())
    return Made({"report": ReportRef(files=refs)})


def _reproduction(context: StageContext) -> Reproduction | None:
    """The comparison with the job that this one reproduces."""
    job = context.order.reproduces
    if job is None:
        return None
    first = context.content.get_model(job_result_key(job), JobResult)
    return compare_jobs(first, context.earlier, context.content, job=job)


def _attested(context: StageContext, data: ReportData) -> bytes:
    """The provenance of what this job has published. It is put beside the manifest, unless the statement of
    the job that made these files is there: a job that found them in the cache did not make them."""
    manifest = next(ref for ref in context.inputs.values() if isinstance(ref, ManifestRef))
    statement = provenance(
        data,
        manifest=manifest,
        listed=manifest.load(context.content, Manifest),
        code=code(),
        resources=context.order.request.resources,
        finished=datetime.now(UTC),
    ).to_json()
    store, key = context.content.store, f"{manifest.prefix}/{ReportRef.PROVENANCE}"
    there = b"".join(store.get(key)) if store.stat(key) is not None else b""
    if not names_manifest(there, manifest):
        store.put(key, [statement])
    return statement


@dataclass(frozen=True)
class _ReportInputs:
    """The inputs of the stage, as sections read them."""

    spec: PruneSpec
    context: StageContext

    @property
    def stages(self) -> tuple[NodeResult, ...]:
        return self.context.earlier

    @property
    def refs(self) -> Mapping[str, ArtifactRef]:
        return self.context.inputs

    def load(self, name: str, document: type[Document]) -> Document:
        return self.context.load(name, document)

    def find(self, name: str, document: type[Document]) -> Document | None:
        return self.context.find(name, document)
