"""The figures and curves of a job on the page are those of its report."""

import re

import pytest
from playwright.sync_api import Page, expect

from pipeline.report import quantity
from pipeline.report.data import ReportDocument
from pipeline.report.drawing.block_chart import block_chart
from pipeline.report.summary import summary_line
from tests.browser import go
from tests.pipeline.report.made_learned import learned_spec
from tests.web import scenes
from tests.web.conftest import Site


def test_the_figures_are_those_of_the_report(page: Page, site: Site) -> None:
    answer = site.api.client.get(f"/jobs/{site.done.id}/report", params={"format": "json"})
    report = ReportDocument.model_validate_json(answer.content)
    go(page, f"/jobs/{site.done.id}")
    text = report.summary.perplexity[0]
    expect(page.locator("#perplexity-table tbody tr").locator("th, td")).to_have_text(
        [
            text.name,
            quantity.human_perplexity(text.dense),
            quantity.human_perplexity(text.pruned),
            f"{text.ratio:.3f}",
            "16 × 512",
        ]
    )
    rows = page.locator("#tasks-table tbody tr")
    expect(rows).to_have_count(len(report.summary.tasks))
    for row, task in zip(rows.all(), report.summary.tasks, strict=True):
        expect(row).to_contain_text(quantity.human_metric(task.dense))
        expect(row).to_contain_text(quantity.human_metric(task.difference, sign=True))
        expect(row.locator("b")).to_have_count(int(task.stands_out))
    for note in report.summary.notes:
        expect(page.get_by_role("list", name="Notes")).to_contain_text(note)

    chart = block_chart(
        report.data.plan, report.data.sparsity, report.data.measurements, asked=report.data.asked
    )
    drawn = page.locator("svg.chart")
    expect(drawn).to_have_attribute("viewBox", f"0 0 {chart.width:g} {chart.height:g}")
    for panel in chart.panels:
        bars = drawn.locator(f"rect.{panel.name}")
        expect(bars.locator("title")).to_have_text([bar.label for bar in panel.bars])
        for bar, expected in zip(bars.all(), panel.bars, strict=True):
            for name in ("x", "y", "width", "height"):
                assert float(bar.get_attribute(name) or "nan") == pytest.approx(
                    getattr(expected, name), abs=0.02
                )
        for tick in panel.y_ticks:
            expect(drawn.get_by_text(tick.label, exact=True).first).to_be_attached()
    with page.context.expect_page() as opened:
        page.get_by_role("link", name="Full report").click()
    expect(opened.value.get_by_role("heading", name="Sparsity per linear")).to_be_visible()


def test_training_is_drawn_while_it_goes_on(page: Page, site: Site) -> None:
    job = scenes.training(site.api, steps=120, name="recovery")
    go(page, f"/jobs/{job.id}")
    expect(page.get_by_role("heading", name="Recovery training")).to_be_visible()
    card = page.locator('[data-training="recover"]')
    expect(card).to_contain_text("120 of 400")
    expect(card).to_contain_text(re.compile(r"Zeros held53\D084\D160"))
    panels = ["loss", "minimised", "rate", "norm", "speed"]
    expect(card.locator("[data-panel]")).to_have_count(len(panels))
    loss = card.locator('[data-panel="loss"]')
    expect(loss).to_have_attribute("aria-label", re.compile(r"^120 of 400 steps; cross-entropy from 3\.8"))
    expect(loss.locator("circle.validation")).to_have_count(3)  # before the first step, at 50 and 100
    expect(loss.locator("line.reference title")).to_have_text("went on at step 51")
    job.trained(121, 150, started=2)
    expect(card).to_contain_text("150 of 400")
    expect(loss.locator("circle.validation")).to_have_count(4)
    rows = page.get_by_role("group", name="Events")
    expect(rows).to_contain_text("held-out text after step 150: loss")


def test_mask_learning_is_drawn_like_other_training(page: Page, site: Site) -> None:
    job = scenes.learning(site.api, steps=100, name="masks")
    go(page, f"/jobs/{job.id}")
    expect(page.get_by_role("heading", name="Mask learning")).to_be_visible()
    expect(page.get_by_role("heading", name="Recovery training")).to_have_count(0)
    card = page.locator('[data-training="prune"]')
    expect(card).to_contain_text("100 of 300")
    expect(card.locator("[data-panel]")).to_have_count(4)
    expect(card.locator('[data-panel="loss"] circle.validation')).to_have_count(3)
    job.finish("prune")
    job.trained(1, 50)
    expect(page.get_by_role("heading", name="Recovery training")).to_be_visible()
    expect(page.locator('[data-training="recover"]')).to_contain_text("50 of 400")
    job.succeed()
    tiles = page.get_by_role("region", name="Results").locator(".tiles")
    expect(tiles).to_contain_text("Masks learned2.46M tokens300 of 300 steps")
    expect(tiles).to_contain_text("of the groups changed")


def test_a_recovered_model_has_its_column_and_its_share(page: Page, site: Site) -> None:
    job = scenes.training(site.api, steps=400, name="recovered")
    job.succeed()
    report = ReportDocument.model_validate_json(
        site.api.client.get(f"/jobs/{job.id}/report", params={"format": "json"}).content
    )
    go(page, f"/jobs/{job.id}")
    text = report.summary.perplexity[0]
    figures = page.locator("#perplexity-table")
    expect(figures.locator("thead th")).to_have_text(
        ["Text", "Dense", "Pruned", "Recovered", "Ratio", "Windows"]
    )
    assert text.recovered is not None
    expect(figures.locator("tbody")).to_contain_text(quantity.human_perplexity(text.recovered))
    assert text.recovered_share is not None
    tiles = page.get_by_role("region", name="Results").locator(".tiles")
    expect(tiles).to_contain_text(f"Won back{100 * text.recovered_share:.0f} %")
    expect(tiles).to_contain_text("held at all")
    expect(page.locator('[data-training="recover"]')).to_contain_text("400 of 400")


FIGURES = (0.0, 0.04, 0.42, 9.94, 9.96, 59.4, 61.0, 75.3, 999.994, 3599.4, 7325.0, 4.2e5, 1.23e6, 9.9e9)
RANGES = (*FIGURES, 1023, 1536, 2**20 + 1, 5 * 2**40, 0.5124, 0.00021, 19.5312, 43.4567, 1234.56, 2.5e8)


def test_quantities_read_as_in_the_report(page: Page) -> None:
    formats = {
        "bytes": quantity.human_bytes,
        "seconds": quantity.human_seconds,
        "perplexity": quantity.human_perplexity,
        "metric": quantity.human_metric,
    }
    for name, ours in formats.items():
        theirs = page.evaluate(
            "async ([name, values]) => values.map((await import('/web/format.js'))[name])", [name, RANGES]
        )
        assert theirs == [ours(value) for value in RANGES], name
    signed = page.evaluate(
        "async (values) => { const { metric } = await import('/web/format.js');"
        " return values.map((value) => metric(value, { sign: true })) }",
        [0.1, -0.1, None],
    )
    assert signed == [quantity.human_metric(value, sign=True) for value in (0.1, -0.1, None)]
    for name, value in (("idle_memory_bytes", 2.0**28), ("load_seconds", 75.0), ("tokens_scored", 1234567.0)):
        shown = page.evaluate(
            "async ([n, v]) => (await import('/web/format.js')).figure(n, v)", [name, value]
        )
        assert shown == quantity.human_figure(name, value)


@pytest.mark.parametrize("prior", ["sparsegpt", None])
def test_what_learned_methods_do_reads_as_in_the_report(page: Page, prior: str | None) -> None:
    spec = learned_spec(prior=prior)
    fields = spec.model_dump(mode="json")
    for kind in ("maskllm", "another"):
        fields["prune"]["method"]["kind"] = kind
        shown = page.evaluate("async (spec) => (await import('/web/format.js')).recipe(spec)", fields)
        assert shown == summary_line(spec).replace("maskllm", kind)
