"""The stage that reports the members of a sweep as one page and one JSON."""

from pipeline.artifacts.refs import ReportRef
from pipeline.dag.stages.results import ReportSweep
from pipeline.report.page import render_sweep
from pipeline.report.summary import summary_line
from pipeline.report.sweep import SweepData, SweepDocument, sweep_json
from workers.context import StageContext, Steps
from workers.stages.report import section_fields, stored


def run(stage: ReportSweep, context: StageContext) -> Steps:
    """Lay out figures that are read from artifacts. No figure is computed from weights here."""
    data = SweepData.model_validate(section_fields(SweepData, stage, context))
    document = SweepDocument(recipe=summary_line(stage.spec), data=data)
    yield stored(
        context, {ReportRef.PAGE: render_sweep(document).encode(), ReportRef.JSON: sweep_json(document)}
    )
