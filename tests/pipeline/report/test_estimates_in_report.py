"""The report shows what a stage was expected to cost beside what it cost."""

import pytest

from pipeline.job.estimate import Estimate
from pipeline.job.ledger import Measured
from pipeline.report.page import render_html
from pipeline.report.quantity import human_error
from pipeline.report.sections.stages import GPU_PEAK
from tests.pipeline.report.made_report import made_report
from tests.pipeline.report.pages import Page

GIB = 2**30


def estimate(
    node: str, seconds: float | None, *, memory: int | None = None, gpu: int | None = None
) -> Estimate:
    return Estimate(
        node=node,
        device="H200",
        workers=1,
        seconds=seconds,
        parts={},
        memory_bytes=memory,
        gpu_memory_bytes=gpu,
    )


@pytest.mark.parametrize(
    ("expected", "actual", "words"), [(90, 100, "-10 %"), (150, 100, "+50 %"), (5, 0, "–")]
)
def test_an_error_is_a_share_of_what_was_measured(expected: float, actual: float, words: str) -> None:
    assert human_error(expected, actual) == words


def test_estimates_stand_beside_what_was_measured() -> None:
    report = made_report()
    stages = tuple(
        one.model_copy(
            update={"measured": Measured(seconds=95.5, peak_memory_bytes=GIB, details={GPU_PEAK: 4.0 * GIB})}
        )
        if one.node == "prune"
        else one
        for one in report.stages
    )
    estimates = (
        estimate("import_model", 3.0),  # from the cache
        estimate("prune", 191.0, memory=GIB // 2, gpu=3 * GIB),
        estimate("evaluate:dense", None, memory=GIB),
        estimate("tasks:later", 5.0),
    )
    page = Page(render_html(report.model_copy(update={"stages": stages, "estimates": estimates})))
    rows = {row[0]: row for row in page.tables["stages-table"]}
    assert rows["prune"][3] == "3 min 11 s (+100 %)"
    assert rows["prune"][5] == "512.0 MiB (-50 %), GPU 3.0 GiB (-25 %)"
    assert rows["evaluate:dense"][3] == "–"
    assert rows["import_model"][3] == "–"
    assert "tasks:later" not in rows


def test_without_estimates_there_are_no_columns_of_them() -> None:
    html = render_html(made_report())
    assert "Estimate" not in html
