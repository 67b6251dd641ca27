"""The page in a real browser, over the real API."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from playwright.sync_api import Browser, Locator, Page, expect

from api.settings import Settings
from pipeline.report import quantity
from pipeline.report.data import ReportDocument
from pipeline.report.drawing.block_chart import block_chart
from pipeline.report.summary import summary_line
from pipeline.request.prune_spec import JobRequest
from tests.api.conftest import KEY, free_port, running
from tests.browser import visiting
from tests.pipeline.report.made_learned import learned_spec
from tests.web import scenes
from tests.web.conftest import HOSTILE, Site

NARROW = {"width": 400, "height": 800}
UNAUTHORIZED = "401 (Unauthorized)"


@pytest.fixture
def page(chromium: Browser, site: Site) -> Iterator[Page]:
    """Signed in as an admin."""
    with visiting(chromium, site.url, key=KEY) as opened:
        yield opened


def go(page: Page, path: str) -> None:
    page.evaluate("path => { location.hash = path }", path)


def chips(rows: Locator) -> list[str]:
    return [text.strip() for text in rows.locator(".chip").all_inner_texts()]


def test_a_key_opens_it_and_signing_out_closes_it(chromium: Browser, site: Site) -> None:
    with visiting(chromium, site.url, f"/jobs/{site.done.id}", allowed=UNAUTHORIZED) as page:
        expect(page.get_by_role("heading", name="Sign in")).to_be_visible()
        expect(page.get_by_text(".secateur/api-key")).to_be_visible()
        field = page.get_by_label("API key")
        expect(field).to_be_focused()
        field.fill("sec_wrong00000_" + "x" * 43)
        page.keyboard.press("Enter")
        expect(page.get_by_role("alert")).not_to_be_empty()
        field.fill(f" {KEY}\n")
        page.get_by_role("button", name="Sign in").click()
        expect(page.get_by_role("heading", name="nightly SmolLM2", level=1)).to_be_visible()
        expect(page.locator("#who")).to_contain_text("tests (admin)")
        assert KEY not in page.evaluate(
            "document.cookie + JSON.stringify({...localStorage, ...sessionStorage})"
        )
        page.reload()
        expect(page.get_by_role("heading", name="nightly SmolLM2", level=1)).to_be_visible()
        page.get_by_role("button", name="Sign out").click()
        expect(page.get_by_role("heading", name="Sign in")).to_be_visible()


@pytest.mark.servers
def test_without_keys_everything_is_open_and_older_jobs_come_when_asked_for(
    chromium: Browser, tmp_path: Path
) -> None:
    settings = Settings(state_dir=tmp_path, port=free_port(), ray_address="http://127.0.0.1:9", auth="none")
    with running(settings) as api, visiting(chromium, api.url) as page:
        expect(page.get_by_text("No jobs yet.")).to_be_visible()
        expect(page.locator("#who")).to_be_empty()
        for number in range(28):
            api.client.post("/jobs", json=scenes.request(name=f"number {number}"))
        rows = page.locator("[data-job]")
        expect(rows.first).to_contain_text("number 27")
        page.reload()
        expect(rows).to_have_count(25)
        expect(rows.last).to_contain_text("number 3")
        page.get_by_role("button", name="More").click()
        expect(rows).to_have_count(28)
        expect(page.get_by_role("button", name="More")).to_be_hidden()
        oldest = rows.last.get_attribute("data-job")
        api.client.post(f"/jobs/{oldest}/cancel")  # below the page that is looked at, and yet seen
        expect(rows.last).to_contain_text("cancelled")
        go(page, "/schedules")
        expect(page.get_by_text("No schedules yet.")).to_be_visible()


def test_the_list_is_live_and_can_be_searched(page: Page, site: Site) -> None:
    rows = page.locator("[data-job]")
    done = page.locator(f'[data-job="{site.done.id}"]')
    expect(done).to_contain_text("succeeded")
    expect(done.get_by_role("progressbar")).to_have_attribute("aria-valuenow", "100")
    expect(page.get_by_role("link", name=HOSTILE)).to_be_visible()

    live = scenes.pruning(site.api, name="live one", labels={"team": "research"})
    row = page.locator(f'[data-job="{live.id}"]')
    expect(row).to_contain_text("prune + evaluate:dense")
    assert rows.first.get_attribute("data-job") == live.id
    kept = row.element_handle()
    bar = row.get_by_role("progressbar")
    before = int(bar.get_attribute("aria-valuenow") or 0)
    live.progress("prune", 29, scenes.BLOCKS)
    expect(bar).not_to_have_attribute("aria-valuenow", str(before))
    assert kept.evaluate("node => node.isConnected"), "rows are changed, not made anew"

    search = page.get_by_role("searchbox")
    search.fill("TEAM:research")
    expect(rows).to_have_count(1)
    search.fill("no such thing")
    expect(page.get_by_text("No job fits.")).to_be_visible()
    search.fill("")
    page.get_by_label("Status").select_option("failed")
    expect(rows.first).to_have_attribute("data-job", site.failed.id)
    assert set(chips(rows)) == {"failed"}
    page.get_by_label("Status").select_option("running")
    expect(row).to_be_visible()
    live.succeed()
    expect(row).to_have_count(0)


def test_a_job_is_watched_to_its_end(page: Page, site: Site) -> None:
    job = scenes.play(site.api, name="watched")
    go(page, f"/jobs/{job.id}")
    expect(page.get_by_text("The stages are known when the first attempt has begun.")).to_be_visible()
    job.begin()
    nodes = page.locator(".dag [data-node]")
    expect(nodes).to_have_count(len(job.dag.nodes))
    prune = page.locator('.dag [data-node="prune"]')
    expect(prune).to_have_attribute("aria-label", "prune: pending")
    job.finish("import_model", cached=True)
    expect(page.get_by_role("button", name="import_model: cached")).to_be_visible()
    job.progress("prune", 0, scenes.BLOCKS)
    cells = page.locator('[data-stage="prune"] .cell')
    expect(cells).to_have_count(scenes.BLOCKS)
    job.progress("prune", 12, scenes.BLOCKS, note="block 11")
    expect(prune).to_have_attribute("aria-label", "prune: running, 12/30 block")
    expect(page.locator('[data-stage="prune"] .cell.done')).to_have_count(12)
    expect(page.locator('[data-stage="prune"] .cell.now')).to_have_count(1)
    expect(page.locator('[data-stage="prune"]')).to_contain_text("block 11")
    expect(page).to_have_title(re.compile(r"^running \d+ % · watched"))
    expect(page.get_by_text("appear here when the report is made")).to_be_visible()

    prune.focus()
    page.keyboard.press("Enter")
    details = page.get_by_role("region", name="Details of a stage")
    expect(details).to_contain_text("12 of 30 block")
    job.finish("prune")
    expect(details).to_contain_text("295.6 MiB")
    expect(details).to_contain_text("idle memory 256.0 MiB")
    page.keyboard.press("Enter")
    expect(details).to_be_hidden()

    page.get_by_role("tab", name="Log").click()
    expect(page.get_by_text("There is no output yet.")).to_be_visible()
    job.succeed()
    expect(page.get_by_role("heading", level=1)).to_have_text("watched")
    expect(page.locator(".job-head .chip")).to_have_text("succeeded")
    expect(page.locator("#perplexity-table")).to_be_visible()
    expect(page.get_by_role("log")).to_contain_text("block 89: done")
    expect(page.locator("#announcer")).to_have_text("The job is succeeded.")
    expect(page.get_by_role("button", name="Cancel job")).to_be_hidden()
    page.get_by_role("tab", name="Events").click()
    events = page.locator("[data-event]")
    expect(events.last).to_have_attribute("data-type", "job.succeeded")
    progress = page.locator('[data-event][data-type="stage.progress"]')
    expect(progress).to_have_count(1)  # all of a stage on one line
    expect(progress).to_contain_text("12/30 block")


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


def test_what_was_made_and_asked_for_is_at_hand(page: Page, site: Site) -> None:
    go(page, f"/jobs/{site.done.id}/artifacts")
    listed = site.api.client.get(f"/jobs/{site.done.id}/artifacts").json()["data"]
    manifest = page.locator('[data-artifact="verify/manifest"]')
    expect(manifest).to_contain_text("3 files")
    for artifact in listed:
        box = page.locator(f'[data-artifact="{artifact["node"]}/{artifact["artifact"]}"]')
        expect(box).to_contain_text(artifact["digest"])
        for file in artifact["files"]:
            expect(box).to_contain_text(file["sha256"])
            expect(box).to_contain_text(quantity.human_bytes(file["size"]))
    with page.expect_download() as download:
        manifest.get_by_role("link", name="config.json", exact=True).click()
    assert Path(download.value.path()).read_bytes() == scenes.CONFIG
    assert download.value.suggested_filename == "config.json"

    page.get_by_role("tab", name="Artifacts").press("ArrowRight")
    expect(page.get_by_role("tab", name="Spec")).to_be_focused()
    shown = page.get_by_label("Spec", exact=True).and_(page.locator("pre")).inner_text()
    asked = JobRequest.model_validate(yaml.safe_load(shown))
    assert asked.spec == site.done.driver.live.request.spec
    assert asked.labels == {"team": "serving"}
    page.get_by_role("tab", name="Spec").press("ArrowRight")
    expect(page.get_by_role("tab", name="Events")).to_be_focused()
    assert page.evaluate("location.hash") == f"#/jobs/{site.done.id}/events"


def test_a_failure_says_what_where_and_shows_the_log(page: Page, site: Site) -> None:
    go(page, f"/jobs/{site.failed.id}")
    expect(page.get_by_role("heading", level=1)).to_have_text(HOSTILE)
    panel = page.get_by_role("alert").filter(has_text="The job failed")
    expect(panel).to_contain_text(f"the Cholesky factorisation failed: {HOSTILE}")
    for word in ("numerical_error", "spec.prune.method.damping", "prune"):
        expect(panel.get_by_text(word, exact=True)).to_be_visible()
    expect(page.get_by_role("button", name="prune: failed")).to_be_visible()
    expect(page.locator('[data-event][data-type="job.failed"]')).to_contain_text(HOSTILE)
    panel.get_by_role("link", name="show it here").click()
    expect(page.get_by_role("log")).to_contain_text("block 89: done")
    assert page.locator("main img").count() == 0
    assert page.title() != "taken"


def test_cancel_and_retry_ask_first(page: Page, site: Site) -> None:
    job = site.api.client.post("/jobs", json=scenes.request(name="waits")).json()["id"]
    go(page, f"/jobs/{job}")
    page.get_by_role("button", name="Cancel job").click()
    dialog = page.get_by_role("dialog", name="Cancel this job?")
    dialog.get_by_role("button", name="Back").click()
    expect(dialog).to_have_count(0)
    page.get_by_role("button", name="Cancel job").click()
    dialog.get_by_role("button", name="Cancel job").click()
    expect(page.locator(".job-head .chip")).to_have_text("cancelled")
    page.get_by_role("button", name="Retry job").click()
    page.get_by_role("dialog").get_by_role("button", name="Retry job").click()
    expect(page.locator(".job-head .chip")).to_have_text("queued")
    expect(page.locator("[data-event]")).to_have_count(3)  # queued, cancelled, queued: the stream goes on
    site.api.client.post(f"/jobs/{job}/cancel")


def test_an_error_of_a_button_is_shown(chromium: Browser, site: Site) -> None:
    with visiting(chromium, site.url, f"/jobs/{site.failed.id}", key=KEY, allowed="409 (Conflict)") as page:
        page.get_by_role("button", name="Retry job").click()
        refusal = {"error": {"code": "job_not_retryable", "message": "job is running", "param": None}}
        page.route("**/retry", lambda route: route.fulfill(status=409, json=refusal))
        dialog = page.get_by_role("dialog")
        dialog.get_by_role("button", name="Retry job").click()
        expect(dialog.get_by_role("alert")).to_have_text("job is running")
        page.keyboard.press("Escape")
        expect(dialog).to_have_count(0)


def test_viewers_have_no_buttons(chromium: Browser, site: Site) -> None:
    with visiting(chromium, site.url, f"/jobs/{site.failed.id}", key=site.key("viewer")) as page:
        expect(page.get_by_role("alert").filter(has_text="The job failed")).to_be_visible()
        expect(page.get_by_role("button", name="Retry job")).to_be_hidden()
        go(page, f"/schedules/{site.schedule}")
        expect(page.get_by_role("heading", name="Firings")).to_be_visible()
        expect(page.get_by_role("button", name="Run now")).to_be_hidden()


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
    assert loss.get_attribute("aria-label").startswith("120 of 400 steps; cross-entropy from 3.8")
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


def test_schedules_show_what_became_of_each_night(page: Page, site: Site) -> None:
    go(page, "/schedules")
    row = page.locator('[data-schedule="nightly"]')
    expect(row).to_contain_text("30 2 * * * (America/New_York)")
    expect(row).to_contain_text("missed")
    alias = page.locator('[data-alias="nightly"]')
    expect(alias.get_by_role("link", name=site.done.id)).to_be_visible()
    row.get_by_role("link", name="nightly").click()
    expect(page.locator("main .facts")).to_contain_text("02:30:00 America/New_York")
    expect(page.locator('[data-candidate$="step-5000"]')).to_contain_text("safetensors is missing")
    firings = page.locator("[data-firing]")
    assert [chips(firing)[0] for firing in firings.all()] == ["missed", "held", "promoted"]
    held = firings.nth(1)
    assert chips(held)[1:] == ["passed", "failed"]
    expect(held).to_contain_text("got 0.431, dense 0.6124, bound 0.5924")
    expect(page.locator("main .facts").get_by_role("link", name=site.done.id)).to_be_visible()

    page.get_by_role("button", name="Pause").click()
    page.get_by_role("dialog").get_by_role("button", name="Pause").click()
    expect(page.locator(".title .chip")).to_have_text("paused")
    page.get_by_role("button", name="Resume").click()
    page.get_by_role("dialog").get_by_role("button", name="Resume").click()
    expect(page.locator(".title .chip")).to_have_text("active")
    page.get_by_role("button", name="Run now").click()
    page.get_by_role("dialog").get_by_role("button", name="Run now").click()
    expect(page.get_by_text("Nothing new was found, so nothing was started.")).to_be_visible()
    firings.nth(2).get_by_role("link", name=site.done.id).click()
    expect(page.get_by_role("heading", name="nightly SmolLM2", level=1)).to_be_visible()


def test_small_and_dark_and_by_keyboard(chromium: Browser, site: Site) -> None:
    options = {"viewport": NARROW, "color_scheme": "dark", "has_touch": True}
    with visiting(chromium, site.url, key=KEY, **options) as page:
        for path, word in (
            ("/jobs", "nightly SmolLM2"),
            (f"/jobs/{site.done.id}", "Outlier ratio"),
            (f"/jobs/{site.done.id}/artifacts", "of verify"),
            (f"/jobs/{site.failed.id}/spec", "evaluation"),
            ("/schedules", "Aliases"),
            (f"/schedules/{site.schedule}", "Firings"),
        ):
            go(page, path)
            expect(page.get_by_text(word).first).to_be_visible()
            wide = page.evaluate("document.documentElement.scrollWidth")
            assert wide <= NARROW["width"], f"{path} is {wide} wide"
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(20, 23, 27)"
        page.reload()
        expect(page.get_by_role("heading", name="nightly", level=1)).to_be_visible()
        page.keyboard.press("Tab")
        expect(page.get_by_role("link", name="Skip to the content")).to_be_focused()
        page.keyboard.press("Enter")
        expect(page.get_by_role("main")).to_be_focused()
        assert page.evaluate("location.hash") == f"#/schedules/{site.schedule}"


def test_an_absent_service_is_named_and_found_again(chromium: Browser, site: Site) -> None:
    with visiting(chromium, site.url, "/jobs", key=KEY, allowed="ERR_FAILED") as page:
        rows = page.locator("[data-job]")
        expect(rows.first).to_be_visible()
        page.route("**/jobs?*", lambda route: route.abort())
        away = page.locator("#connection")
        expect(away).to_contain_text("The service does not answer.")
        expect(rows.first).to_be_visible()
        page.unroute("**/jobs?*")
        expect(away).to_be_empty()


def test_a_tab_that_nobody_sees_asks_for_nothing_and_catches_up(page: Page, site: Site) -> None:
    turn = """hidden => {
      Object.defineProperty(document, "hidden", { configurable: true, get: () => hidden });
      document.dispatchEvent(new Event("visibilitychange"));
    }"""
    job = scenes.pruning(site.api, name="unseen")
    go(page, f"/jobs/{job.id}")
    expect(page.locator('[data-stage="prune"] .cell.done')).to_have_count(12)
    told = page.locator('[data-event][data-type="stage.progress"]').filter(has_text="prune")
    expect(told).to_contain_text("12/30 block")
    page.evaluate(turn, True)
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    job.progress("prune", 20, scenes.BLOCKS)
    page.evaluate("seconds => new Promise(done => setTimeout(done, 1000 * seconds))", 6)
    assert asked == []
    page.evaluate(turn, False)
    expect(page.locator('[data-stage="prune"] .cell.done')).to_have_count(20)
    expect(told).to_contain_text("20/30 block")
    job.fail("enough")


def test_what_is_not_there_is_said(chromium: Browser, site: Site) -> None:
    with visiting(chromium, site.url, "/jobs/job-nothing", key=KEY, allowed="404 (Not Found)") as page:
        expect(page.get_by_text("there is no job job-nothing")).to_be_visible()
        go(page, "/schedules/nightl")
        expect(page.get_by_text("did you mean")).to_be_visible()
        go(page, "/elsewhere")
        expect(page.get_by_role("heading", name="There is nothing here")).to_be_visible()


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
