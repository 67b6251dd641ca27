"""The system's Chromium, driven by Playwright, and visits that fail on an error or a request to elsewhere."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.needs import needed

if TYPE_CHECKING:
    from playwright.sync_api import Browser, ConsoleMessage, Page, Request

CHROMIUM = Path("/usr/bin/chromium")
FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
PATIENCE_MS = 180_000  # long enough for a busy machine


@pytest.fixture(scope="module")
def chromium() -> Iterator["Browser"]:
    """One browser for a module. It is closed at the end, because Playwright's loop occupies this thread."""
    needed("browser")
    if not CHROMIUM.exists():
        missing = "Chromium is not installed; on Debian run: apt-get install chromium"
        if os.environ.get("CI") == "true":
            pytest.fail(missing)
        pytest.skip(missing)
    from playwright.sync_api import expect, sync_playwright

    expect.set_options(timeout=PATIENCE_MS)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=list(FLAGS))
        yield browser
        browser.close()


def go(page: "Page", path: str) -> None:
    """Move to `#path` of the page that is open."""
    page.evaluate("path => { location.hash = path }", path)


@contextlib.contextmanager
def visiting(
    browser: "Browser",
    url: str,
    path: str = "",
    *,
    key: str | None = None,
    allowed: str = "",
    storage: str | None = None,
    **options: Any,
) -> Iterator["Page"]:
    """Opens `#path` of the service at `url`, signed in with `key`, and yields the page.

    Fails at the end if the console showed an error or warning that does not contain `allowed`, if a script
    failed, or if the page made a request to another site than the service and, for downloads, its `storage`.
    `options` are those of the browser's context.
    """
    problems: list[str] = []
    sites = (f"{url}/", "data:", *([] if storage is None else [f"{storage}/"]))

    def said(message: "ConsoleMessage") -> None:
        if message.type in ("error", "warning") and not (allowed and allowed in message.text):
            problems.append(message.text)

    def asked(request: "Request") -> None:
        if not request.url.startswith(sites):
            problems.append(f"a request to {request.url}")

    context = browser.new_context(**options)
    context.set_default_timeout(PATIENCE_MS)
    try:
        if key is not None:
            answer = context.request.post(f"{url}/session", data={"key": key})
            assert answer.status == 204, answer.text()
        page = context.new_page()
        page.on("console", said)
        page.on("pageerror", lambda error: problems.append(str(error)))
        context.on("request", asked)
        page.goto(f"{url}/#{path}" if path else f"{url}/")
        yield page
    finally:
        context.close()
    assert problems == []
