"""The page and the card show how certain differences are, and where figures come from."""

import pytest

from pipeline.report.data import summarise
from pipeline.report.page import render_html
from pipeline.report.quantity import human_interval, human_p
from tests.pipeline.report.made_pairs import paired_report, windowed
from tests.pipeline.report.made_report import PRUNED, made_report


def test_differences_stand_beside_their_intervals() -> None:
    data = paired_report()
    page, summary = render_html(data), summarise(data)
    for row in (*summary.perplexity, *summary.tasks):
        assert row.paired is not None
        shown = f"{human_interval(row.paired.low, row.paired.high)}, {human_p(row.paired.p_value)}"
        assert f">{shown.replace('<', '&lt;')}</small>" in page
    assert "<th>Difference</th><th>Sequence length</th>" in page
    assert "test, cpu" in page


def test_a_report_without_pairs_looks_as_before() -> None:
    page = render_html(made_report(blocks=2))
    assert "interval" not in page
    assert "not recorded, not recorded" in page


def test_another_device_is_noted_and_no_reason_to_fail() -> None:
    data = paired_report()
    moved = data.model_copy(update={"pruned": windowed(PRUNED, shift=0.1, device="NVIDIA H200")})
    note = "perplexities were measured on different devices (dense on cpu, pruned on NVIDIA H200)"
    assert any(note in one for one in moved.notes)
    assert not any("devices" in one for one in data.notes)
    (evaluation,) = data.pruned_tasks
    (result,) = evaluation.results
    elsewhere = result.model_copy(
        update={"contract": result.contract.model_copy(update={"device": "NVIDIA H200"})}
    )
    tasks = (evaluation.model_copy(update={"results": (elsewhere,)}),)
    notes = data.model_copy(update={"pruned_tasks": tasks}).notes
    assert sum("figures of sciq were measured on different devices" in one for one in notes) == 1


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        (human_interval(-0.034, 0.012), "-0.034 to +0.012"),
        (human_interval(21.23456, 27.0), "+21.2 to +27"),
        (human_p(0.0421), "p = 0.042"),
        (human_p(0.0), "p < 0.001"),
    ],
)
def test_quantities(shown: str, expected: str) -> None:
    assert shown == expected
