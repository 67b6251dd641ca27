"""The page in a real browser, over the real API: entering it, its lists, and its manners."""

from pathlib import Path

import pytest
from playwright.sync_api import Browser, Locator, Page, expect

from api.settings import Settings
from tests.api.conftest import KEY, free_port, running
from tests.browser import go, visiting
from tests.web import scenes
from tests.web.conftest import HOSTILE, Site

NARROW = {"width": 400, "height": 800}
UNAUTHORIZED = "401 (Unauthorized)"


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


def test_viewers_have_no_buttons(chromium: Browser, site: Site) -> None:
    with visiting(chromium, site.url, f"/jobs/{site.failed.id}", key=site.key("viewer")) as page:
        expect(page.get_by_role("alert").filter(has_text="The job failed")).to_be_visible()
        expect(page.get_by_role("button", name="Retry job")).to_be_hidden()
        go(page, f"/schedules/{site.schedule}")
        expect(page.get_by_role("heading", name="Firings")).to_be_visible()
        expect(page.get_by_role("button", name="Run now")).to_be_hidden()


def test_schedules_show_what_became_of_each_night(page: Page, site: Site) -> None:
    go(page, "/schedules")
    row = page.locator('[data-schedule="nightly"]')
    expect(row).to_contain_text("30 4 * * * (America/New_York)")
    expect(row).to_contain_text("missed")
    alias = page.locator('[data-alias="nightly"]')
    expect(alias.get_by_role("link", name=site.done.id)).to_be_visible()
    row.get_by_role("link", name="nightly").click()
    expect(page.locator("main .facts")).to_contain_text("04:30:00 America/New_York")
    expect(page.locator('[data-candidate$="step-5000"]')).to_contain_text("safetensors is missing")
    firings = page.locator("[data-firing]")
    expect(firings).to_have_count(3)
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
