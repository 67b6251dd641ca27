"""What reports and model cards say of training."""

import json
import math
import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.report.data import ReportData, ReportDocument, report_json, summarise
from pipeline.report.drawing.curves import curve_chart
from pipeline.report.drawing.panels import axis
from pipeline.report.figures.training import MAX_STEPS, training_figures
from pipeline.report.model_card import adapter_card
from pipeline.report.page import render_html
from pipeline.report.quantity import human_count, human_share
from pipeline.report.side_file import SideFile
from pipeline.report.summary import summary_line
from tests.pipeline.evaluation.made_tasks import made_tasks, with_tasks
from tests.pipeline.report.made_recovery import (
    LENGTH,
    RECOVERED,
    STEPS,
    made_curve,
    made_recovery,
    recovered_report,
    recovered_spec,
)
from tests.pipeline.report.made_report import made_report
from tests.pipeline.report.pages import Page
from tests.pipeline.report.test_model_card import card_of, front_matter, side_of

LM = {"objective": {"kind": "language_modelling"}}
RECONSTRUCTION = {**LM, "trains": {"kind": "reconstruction"}}


def page_of(data: ReportData) -> tuple[Page, str]:
    page = Page(render_html(data))
    return page, " ".join("".join(page.text).split())


def test_the_page_shows_what_training_came_to() -> None:
    page, text = page_of(recovered_report(blocks=3, starts=2))
    assert "19.53 → 43.16 → 24.85dense → pruned → recovered, × 1.273" in text
    assert "70 %" in text
    head, row = page.tables["perplexity-table"]
    assert head[:6] == ["Text", "Dense", "Pruned", "Recovered", "Ratio", "Won back"]
    assert row[:6] == ["wiki.txt", "19.53", "43.16", "24.85", "1.273", "70 %"]
    assert "held at all 13 checks" in text
    assert [check[1] for check in page.tables["checks-table"][1:]] == ["1", "9", "1", "1", "1"]
    assert len(page.tables["keep-table"]) == 1 + 21
    assert "training was started 2 times" in text
    assert '"train_batch_size": 16' in text
    for tensor in recovered_report(blocks=3).certificate.tensors:  # type: ignore[union-attr]
        assert tensor.keep_sha256 in text
    panels = [a["id"] for tag, a in page.tags if tag == "g" and str(a.get("id")).startswith("curves-")]
    assert panels == [f"curves-{name}" for name in ("minimised", "loss", "rate", "norm", "speed")]
    assert page.count("circle", "validation") == len(made_curve(made_recovery()).validations)
    ids = [attrs["id"] for _, attrs in page.tags if attrs.get("id")]
    assert len(ids) == len(set(ids))


def test_training_of_the_dense_model_needs_no_plan_and_no_zeros() -> None:
    data = recovered_report(spec=recovered_spec(prune=False, **LM))
    page, text = page_of(data)
    assert page.tables["perplexity-table"][0][1:4] == ["Dense", "Recovered", "Ratio"]
    assert "19.53 → 24.85" in text
    assert not {"linears-table", "checks-table", "keep-table"} & set(page.tables)
    assert "Won back" not in text
    assert "curves-minimised" not in render_html(data)
    summary = ReportDocument.model_validate_json(report_json(data)).summary
    assert (summary.achieved_sparsity, summary.asked_sparsity, summary.checks) == (None, None, None)
    assert summary.perplexity[0].final == pytest.approx(math.exp(3.213))


@pytest.mark.parametrize(
    ("keep", "panels", "says"),
    [
        ({"kind": "dynamic", "every_steps": 20}, {"moved"}, "dropped and grown every 20 steps"),
        ({"kind": "gradual", "sparsity": 0.6}, {"moved", "zeros"}, "up to sparsity 0.6"),
    ],
)
def test_updates_of_the_zeros_are_drawn(keep: dict[str, Any], panels: set[str], says: str) -> None:
    data = recovered_report(blocks=2, spec=recovered_spec(keep=keep, **LM))
    page, text = page_of(data)
    drawn = {str(attrs.get("id")).removeprefix("curves-") for tag, attrs in page.tags if tag == "g"}
    assert panels <= drawn
    assert says in text
    if keep["kind"] == "gradual":
        assert data.asked == 0.6
        assert page.count("line", "mark") == 0  # what pruning had planned is left behind
        assert "below the asked 0.6" in text


def test_reconstruction_shows_every_block() -> None:
    page, text = page_of(recovered_report(spec=recovered_spec(**RECONSTRUCTION)))
    assert len(page.tables["fits-table"]) == 1 + 30
    assert page.count("circle", "before") == page.count("circle", "after") == 30
    assert "the dense block's output" in text


def test_a_long_curve_is_thinned_and_keeps_its_spikes() -> None:
    recovery = made_recovery(steps=20_000)
    curve = made_curve(recovery)
    figures = training_figures(curve, recovery)
    assert len(figures.curve.steps) <= MAX_STEPS
    assert figures.recorded_steps == 20_000
    for key in ("loss", "gradient_norm"):
        values = [getattr(record, key) for record in curve.steps]
        assert max(getattr(record, key) for record in figures.curve.steps) == max(values)
    losses = [record.loss for record in curve.steps]
    for record, mean in zip(figures.curve.steps, figures.mean_losses, strict=True):
        window = losses[max(record.step - 20, 0) : record.step]
        assert mean == pytest.approx(sum(window) / len(window))
    assert figures.tokens == 20_000 * 16 * LENGTH
    assert len(render_html(recovered_report(blocks=1).model_copy(update={"training": figures}))) < 300_000


@settings(max_examples=50)
@given(
    low=st.floats(-1e6, 1e9, allow_subnormal=False),
    span=st.one_of(st.just(0.0), st.floats(1e-6, 1e9)),
    floored=st.booleans(),
)
def test_axes_hold_their_values(low: float, span: float, floored: bool) -> None:
    high = low + span
    place, ticks = axis(low, high, floor=0.0 if floored and low >= 0 else None)
    assert ticks == sorted(ticks)
    assert -1e-6 <= place(low) <= place(high) <= 1 + 1e-6
    assert all(-1e-6 <= place(tick) <= 1 + 1e-6 for tick in ticks)
    assert len(ticks) <= 20


def test_the_picture_stays_inside_itself() -> None:
    recovery = made_recovery()
    chart = curve_chart(training_figures(made_curve(recovery, starts=3), recovery), clipping=1.0)
    assert chart is not None
    assert [mark.label for mark in chart.marks] == ["start 2", "start 3"]
    for panel in chart.panels:
        for line in panel.lines:
            pairs = re.findall(r"([\d.]+) ([\d.]+)", line.path)
            assert all(chart.left <= float(x) <= chart.right for x, _ in pairs)
            assert all(panel.top - 0.01 <= float(y) <= panel.bottom + 0.01 for _, y in pairs)
    early = made_curve(recovery, result_step=150)
    marks = curve_chart(training_figures(early, recovery), clipping=None)
    assert marks is not None
    assert [mark.label for mark in marks.marks] == ["result: step 150"]
    assert curve_chart(training_figures(early.model_copy(update={"steps": ()}), recovery), clipping=1) is None


def test_json_comes_back_as_it_was() -> None:
    for data in (recovered_report(blocks=2), recovered_report(spec=recovered_spec(prune=False, **LM))):
        document = ReportDocument.model_validate_json(report_json(data))
        assert document.data == data
        assert document.summary == summarise(data)
    summary = summarise(recovered_report(blocks=2))
    assert summary.training is not None
    assert (summary.training.steps, summary.training.tokens) == (STEPS, STEPS * 16 * LENGTH)
    assert summary.checks == 13


@pytest.mark.parametrize(
    ("changes", "recipe"),
    [
        ({}, "distillation, full, 3.28M tokens"),
        (
            {
                "objective": {"kind": "distillation", "teacher": {"source": "hub:org/big@main"}},
                "tokens": 2_000_000,
                "steps": None,
            },
            "distillation from org/big, full, 2.01M tokens",
        ),
        ({**LM, "trains": {"kind": "lora", "rank": 8}}, "language modelling, lora 8, 3.28M tokens"),
        (
            {**LM, "trains": {"kind": "norms_and_biases"}},
            "language modelling, norms and biases, 3.28M tokens",
        ),
        (RECONSTRUCTION, "reconstruction, 3.28M tokens × 4"),
        (
            {**LM, "keep": {"kind": "gradual", "sparsity": 0.6}},
            "language modelling, full, gradual to 0.6, 3.28M tokens",
        ),
    ],
)
def test_recipe(changes: dict[str, Any], recipe: str) -> None:
    assert summary_line(recovered_spec(**changes)) == f"wanda · owl · unstructured 0.5 · {recipe}"
    assert summary_line(recovered_spec(prune=False, **LM)) == "language modelling, full, 3.28M tokens"


@pytest.mark.parametrize(
    ("count", "shown"),
    [(0, "0"), (999, "999"), (1000, "1k"), (65_536, "65.5k"), (999_600, "1M"), (2.5e9, "2.5B")],
)
def test_counts(count: float, shown: str) -> None:
    assert human_count(count) == shown
    assert human_share(-0.104) == "-10 %"


def test_the_card_says_what_trained() -> None:
    data = recovered_report(blocks=3)
    card = card_of(data)
    assert "# SmolLM2-135M, pruned to sparsity 0.5 and trained after it\n" in card
    assert "after pruning and recovery training with Secateur" in card
    assert "| Tokens | 3,276,800 in 400 steps, sequences of 512 |" in card
    assert "| Text | Dense | Pruned | Recovered | Ratio | Won back |" in card
    assert "19.53 | 43.16 | 24.85 | 1.273 | 70 % |" in card
    assert "zero at all 13 checks; last in the published files |" in card
    assert "distillation" in front_matter(card)["tags"]  # type: ignore[operator]
    assert "\n\n\n" not in card
    assert "deepspeed" not in card_of(made_report())
    side = SideFile.model_validate_json(side_of(data).to_json())
    assert side.zeros is not None
    assert (side.zeros.tensors, side.zeros.checks) == (21, 13)
    assert side.digests.recovered_checkpoint == RECOVERED
    assert side.perplexity == data.comparisons
    assert b"tokens_per_second" not in side.to_json()
    assert b"job_" not in side.to_json()


def test_the_card_of_a_dense_model_that_was_trained() -> None:
    data = recovered_report(spec=recovered_spec(prune=False, **LM))
    card = card_of(data)
    assert "# SmolLM2-135M, trained further\n" in card
    assert "Both columns" in card
    for word in ("pruned to", "Sparsity", "stored as zeros", "certificate"):
        assert word not in card
    assert "\n\n\n" not in card
    plain = json.loads(side_of(data).to_json())
    assert (plain["sparsity"], plain["plan"], plain["linears"], plain["zeros"]) == (None, None, [], None)


def test_tasks_have_three_columns() -> None:
    data = with_tasks(recovered_report(blocks=2), limit=25)
    data = data.model_copy(update={"recovered_tasks": made_tasks(RECOVERED, shift=-0.05, limit=25)})
    page, _ = page_of(data)
    head, *rows = page.tables["tasks-table"]
    assert head[4:] == ["Dense", "Pruned", "Recovered", "Difference"]
    assert rows[1][4:] == ["0.5500 ± 0.0200", "0.3000 ± 0.0200", "0.5000 ± 0.0200", "-0.0500"]
    assert "| 0.5500 ± 0.0200 | 0.3000 ± 0.0200 | 0.5000 ± 0.0200 | -0.0500 |" in card_of(data)


def test_the_adapter_says_that_a_plain_merge_brings_weights_back() -> None:
    assert "brings pruned weights back" in adapter_card(model_name="m", base="checkpoint 0", masked=True)
    assert "merges it as usual" in adapter_card(model_name="m", base="org/m", masked=False)
