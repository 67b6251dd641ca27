"""Gates with a confidence: what may be written, and what holds."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.evaluation.difference import LEVELS, Level
from pipeline.report.data import ReportDocument, Summary, report_json, summarise
from pipeline.report.gate_grammar import parse
from pipeline.report.gates import check_gate, check_measured
from tests.pipeline.report.made_pairs import paired_report
from tests.pipeline.report.made_report import made_report

SUMMARY = summarise(paired_report())


@pytest.mark.parametrize("text", ["sciq >= dense - 0.02 at 95%", "sciq   >=  dense - 0.02   at 95 %"])
def test_a_confidence_is_read(text: str) -> None:
    gate = parse(text)
    assert (gate.metric, gate.op, float(gate.offset), gate.level) == ("sciq", ">=", -0.02, 95)
    assert parse(gate.text) == gate
    assert parse("sciq >= dense - 0.02").level is None


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("sciq >= dense - 0.02 at 80%", "80% .* is no confidence; write at one of 90%, 95%, 99%"),
        ("sciq >= 0.5 at 95%", "needs a bound of dense, or dense"),
        ("perplexity <= 1.1 * dense at 95%", "needs a bound of dense, or dense"),
        ("sparsity >= dense at 95%", "has no sparsity"),
        ("sciq >= dense at 95", "is no bound"),
    ],
)
def test_other_confidences_are_refused(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        parse(text)


@pytest.mark.parametrize("metric", ["perplexity", "perplexity.wiki.txt", "sciq", "sciq.acc"])
@pytest.mark.parametrize("level", LEVELS)
def test_the_one_sided_bound_decides_and_not_the_figure(metric: str, level: Level) -> None:
    if metric.startswith("perplexity"):
        (text,) = SUMMARY.perplexity
        paired, op = text.paired, "<="
    else:
        paired, op = SUMMARY.tasks[0].paired, ">="
    assert paired is not None
    sides = paired.at(level)
    bound = sides.upper if op == "<=" else sides.lower
    assert abs(bound) != abs(paired.value)
    for slack, passed in ((1e-6, True), (-1e-6, False)):
        limit = abs(bound) + slack
        sign = "+" if op == "<=" else "-"
        verdict = check_gate(parse(f"{metric} {op} dense {sign} {limit:.9f} at {level}%"), SUMMARY)
        assert verdict.passed is passed
        assert verdict.dense is not None
        assert verdict.certain == pytest.approx(verdict.dense + bound)
        assert f"with {level}% confidence" in verdict.reason
    nearer = f"{metric} {op} dense {sign} {(abs(bound) + abs(paired.value)) / 2:.9f}"
    if abs(paired.value) < abs(bound):
        assert check_gate(parse(nearer), SUMMARY).passed
        assert not check_gate(parse(f"{nearer} at {level}%"), SUMMARY).passed


def test_a_share_of_documents_is_compared_as_it_is_written() -> None:
    """-7/100 is -0.07 to whoever writes a gate."""
    paired = SUMMARY.tasks[0].paired
    assert paired is not None
    lower = paired.at(95).lower
    assert check_gate(parse(f"sciq >= dense - {-round(lower, 9):g} at 95%"), SUMMARY).passed


@given(st.sampled_from(LEVELS), st.floats(0, 1))
def test_what_holds_with_more_confidence_holds_with_less(level: Level, allowed: float) -> None:
    for metric, op, sign in (("sciq", ">=", "-"), ("perplexity", "<=", "+")):
        verdicts = [
            check_gate(parse(f"{metric} {op} dense {sign} {allowed:.6f} at {one}%"), SUMMARY).passed
            for one in LEVELS
        ]
        assert verdicts == sorted(verdicts, reverse=True)


def unpaired() -> Summary:
    return summarise(made_report(blocks=2))


def test_without_pairs_nothing_is_certain() -> None:
    verdict = check_gate(parse("perplexity <= dense + 1000 at 90%"), unpaired())
    assert not verdict.passed
    assert "has no paired interval" in verdict.reason
    assert check_gate(parse("perplexity <= dense + 1000"), unpaired()).passed


def test_other_windows_are_known_beforehand() -> None:
    gate, sure = parse("perplexity <= dense + 1"), parse("perplexity <= dense + 1 at 95%")
    check_measured(gate, texts=["wiki"], tasks=[], own_tokenizers=True)
    check_measured(sure, texts=["wiki"], tasks=[])
    check_measured(parse("sciq >= dense at 95%"), texts=["wiki"], tasks=["sciq"], own_tokenizers=True)
    with pytest.raises(ValueError, match=r"cuts texts into other windows.*leave out `at 95%`"):
        check_measured(sure, texts=["wiki"], tasks=[], own_tokenizers=True)


def test_a_stored_summary_keeps_what_gates_need() -> None:
    stored = ReportDocument.model_validate_json(report_json(paired_report()))
    assert stored.summary == SUMMARY
