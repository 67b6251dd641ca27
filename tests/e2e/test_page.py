"""A person watches a whole real job in a real browser, from signing in to the downloaded checkpoint."""

import json
import re
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Locator, Page, expect

from api.key_file import read_key
from api.service.jobs.views import ArtifactList
from pipeline.report.data import ReportDocument
from pipeline.report.quantity import human_perplexity
from tests.browser import visiting
from tests.e2e.service import Service
from tests.e2e.test_faults import block_stored, key_of
from tests.e2e.test_job import request
from tests.storage.gate import Gate

pytestmark = pytest.mark.e2e

LATE = ("prune", "evaluate:pruned", "publish", "verify", "report")
# Keeps every state that the DAG ever showed, however short: `prune: running, 3/16 block`.
RECORD = """() => {
  window.seen = new Set();
  const note = () => {
    for (const node of document.querySelectorAll(".dag [data-node]")) window.seen.add(node.ariaLabel);
  };
  new MutationObserver(note).observe(document.body, { subtree: true, childList: true, attributes: true });
}"""


def test_a_job_is_watched_from_the_key_to_the_checkpoint(
    chromium: Browser, cloud_service: Service, cloud_gate: Gate, material: Path
) -> None:
    """The job waits for the page: while it measures, then with the 4th, 9th and 13th block that it prunes."""
    body = request(material, "deep")
    body["resources"]["workers"] = 1
    body["spec"]["calibration"] |= {"seed": 23}  # nobody else's, so that its stages are not in the cache
    blocks = json.loads((material / "deep" / "config.json").read_text())["num_hidden_layers"]
    key = read_key(cloud_service.state_dir)
    assert key is not None
    with (
        cloud_service.client() as client,
        visiting(
            chromium,
            cloud_service.url,
            "/jobs",
            allowed="401 (Unauthorized)",
            storage=cloud_gate.server.endpoint,
        ) as page,
        cloud_gate.closed(block_stored(0)),
    ):
        page.get_by_label("API key").fill(key)
        page.get_by_role("button", name="Sign in").click()
        expect(page.get_by_label("API key")).to_have_count(0)
        page.evaluate(RECORD)
        job = client.submit(body).id
        page.evaluate("job => { location.hash = `#/jobs/${job}` }", job)
        expect(page.get_by_role("heading", level=1)).to_have_text(job)
        page.get_by_role("tab", name="Log").click()
        cloud_gate.wait(client, job)
        for stage in LATE:
            expect(_stage(page, stage)).to_have_attribute("aria-label", f"{stage}: pending")
        measuring = key_of("measure_statistics", client, job)  # the other stage that goes over the blocks
        for held in (3, 8, 12):
            cloud_gate.close(block_stored(held, stage=f"(?!{measuring})[^/]+"))
            cloud_gate.wait(client, job)
            done = "|".join(str(number) for number in range(held, blocks))
            running = re.compile(rf"prune: running, ({done})/{blocks} block")
            expect(_stage(page, "prune")).to_have_attribute("aria-label", running)
        cloud_gate.open()
        expect(page.locator(".job-head .chip")).to_have_text("succeeded", timeout=900_000)
        seen = set(page.evaluate("[...window.seen]"))
        _stages_went_on(seen, blocks)
        _figures_are_there(page, client.report(job), blocks)
        _results_can_be_fetched(page, client.artifacts(job))


def _stage(page: Page, node: str) -> Locator:
    return page.locator(f'.dag [data-node="{node}"]')


def _stages_went_on(seen: set[str], blocks: int) -> None:
    for stage in LATE:  # earlier ones may be faster than the page
        assert {f"{stage}: pending", f"{stage}: succeeded"} <= seen, sorted(seen)
    between = {f"prune: running, {done}/{blocks} block" for done in range(1, blocks)}
    assert len(between & seen) >= 3, sorted(seen)


def _figures_are_there(page: Page, report: ReportDocument, blocks: int) -> None:
    expect(page.get_by_role("log")).to_contain_text(f"stage prune: {blocks} of {blocks} block")
    cells = page.locator('[data-stage="prune"] .cell.done')
    expect(cells).to_have_count(blocks)
    text = report.summary.perplexity[0]
    table = page.locator("#perplexity-table")
    expect(table).to_contain_text(human_perplexity(text.dense))
    expect(table).to_contain_text(human_perplexity(text.pruned))
    expect(page.locator("svg.chart rect.measured")).to_have_count(blocks)
    expect(page.locator("svg.chart rect.sparsity")).to_have_count(blocks)


def _results_can_be_fetched(page: Page, artifacts: ArtifactList) -> None:
    page.get_by_role("tab", name="Artifacts").click()
    published = page.locator('[data-artifact="verify/manifest"]')
    expect(page.locator("[data-artifact]")).to_have_count(len(artifacts.data))
    with page.expect_download() as download:
        published.get_by_role("link", name="config.json", exact=True).click()
    assert json.loads(Path(download.value.path()).read_text())["model_type"] == "llama"
