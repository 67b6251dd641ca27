"""Reports and terminals show what a fresh process found; reports of earlier versions have nothing to show."""

from rich.console import Console

from api.cli.view import final_table
from pipeline.report.data import ReportData, summarise
from pipeline.report.page import render_html
from tests.pipeline.report.made_report import made_report
from tests.pipeline.report.made_verification import made_verification


def with_verification(**changes: object) -> ReportData:
    return made_report().model_copy(update={"verification": made_verification(**changes)})  # type: ignore[arg-type]


def shown(data: ReportData) -> str:
    console = Console(width=120)
    with console.capture() as captured:
        console.print(final_table(summarise(data), checkpoint="published/x"))
    return captured.get()


def test_the_outcome_is_one_line_in_the_terminal() -> None:
    lines = [" ".join(line.split()) for line in shown(with_verification()).splitlines()]
    assert "verified opens in transformers, 272 tensors, logits equal" in lines


def test_the_page_tells_what_was_checked() -> None:
    page = render_html(with_verification())
    assert 'id="verification"' in page
    for words in ("12 files", "134,515,008 values, all finite", "LlamaForCausalLM", "all bits are equal"):
        assert words in page
    assert "the largest difference is 1.0e-03 of the largest logit" in render_html(
        with_verification(difference=0.001)
    )


def test_remarks_are_among_the_notes() -> None:
    assert "there is no tokenizer" in summarise(with_verification(remarks=("there is no tokenizer",))).notes


def test_reports_from_before_have_no_section() -> None:
    assert 'id="verification"' not in render_html(made_report())
    assert summarise(made_report()).verified is None
    assert "verified" not in shown(made_report())
