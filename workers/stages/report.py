"""The stage that makes one page and one JSON with every figure."""

from collections.abc import Mapping
from dataclasses import dataclass

from pipeline.artifacts.artifact import Document, FileRef
from pipeline.artifacts.refs import ArtifactRef, ReportRef
from pipeline.dag.stages.results import Report, ReportSweep
from pipeline.job.ledger import NodeResult
from pipeline.report.data import ReportData, report_json
from pipeline.report.page import render_html
from pipeline.report.section import Section, read_sections
from pipeline.report.summary import seeds_of
from pipeline.request.prune_spec import PruneSpec
from workers.context import Made, StageContext, Steps
from workers.environment import environment


def run(stage: Report, context: StageContext) -> Steps:
    """Lay out figures that are read from artifacts. No figure is computed from weights here."""
    fields = {**section_fields(ReportData, stage, context), "seeds": seeds_of(stage.spec)}
    data = ReportData.model_validate(fields)
    yield stored(context, page=render_html(data).encode(), document=report_json(data))


def section_fields(
    report: type[Section], stage: Report | ReportSweep, context: StageContext
) -> dict[str, object]:
    """The fields that the sections of a report read, and the facts of the job that all of them know."""
    request = context.order.request
    return {
        "model_name": stage.model_name,
        "job": context.order.job,
        "job_name": request.name,
        "spec": stage.spec,
        "pins": context.order.pins,
        "stages": context.earlier,
        "environment": environment(
            threads=request.resources.cpus_per_worker,
            training=stage.spec.recovery is not None or stage.spec.learns_masks,
        ),
        "declared_memory_bytes": request.resources.memory_bytes,
        **read_sections(report, _ReportInputs(stage.spec, context)),
    }


def stored(context: StageContext, *, page: bytes, document: bytes) -> Made:
    """Store both files as the artifact."""
    files = {ReportRef.PAGE: page, ReportRef.JSON: document}
    refs = tuple(FileRef(path=path, blob=context.content.put_bytes(data)) for path, data in files.items())
    return Made({"report": ReportRef(files=refs)})


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
