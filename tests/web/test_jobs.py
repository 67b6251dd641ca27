"""The page of one job: watched to its end, its failure, its files, and its buttons."""

import re
from pathlib import Path

import yaml
from playwright.sync_api import Browser, Page, expect

from pipeline.report import quantity
from pipeline.request.prune_spec import JobRequest
from tests.api.conftest import KEY
from tests.browser import go, visiting
from tests.web import scenes
from tests.web.conftest import HOSTILE, Site


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
    assert asked.spec == site.done.driver.asked.request.spec
    assert asked.labels == {"team": "serving"}
    page.get_by_role("tab", name="Spec").press("ArrowRight")
    expect(page.get_by_role("tab", name="Events")).to_be_focused()
    expect(page).to_have_url(f"{site.url}/#/jobs/{site.done.id}/events")


def test_a_failure_says_what_where_and_shows_the_log(page: Page, site: Site) -> None:
    go(page, f"/jobs/{site.failed.id}")
    expect(page.get_by_role("heading", level=1)).to_have_text(HOSTILE)
    panel = page.get_by_role("alert").filter(has_text="The job failed")
    expect(panel).to_contain_text(f"the Cholesky factorisation failed: {HOSTILE}")
    expect(panel).to_contain_text("the user's: the request")
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
