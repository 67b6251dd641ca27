"""`python -m tests.web.picture STATE_DIR JOB`: docs/page.png, the page of a job that has succeeded.

STATE_DIR is that of a service that does not run now, such as the demo's. It is served from a copy of its
database, without a Ray.
"""

import shutil
import sqlite3
import sys
import tempfile
from contextlib import closing
from pathlib import Path

from playwright.sync_api import sync_playwright

from api.docs import ROOT
from api.settings import Settings
from tests.api.conftest import free_port, running
from tests.browser import CHROMIUM, FLAGS, visiting

SIZE = {"width": 1280, "height": 1400}


def take(state_dir: Path, job: str, to: Path) -> None:
    """One PNG from the job's head to its stages."""
    with tempfile.TemporaryDirectory() as copy:
        shutil.copy(state_dir / "secateur.db", copy)
        with closing(sqlite3.connect(f"{copy}/secateur.db")) as database, database:
            names = {"here": f"{state_dir.absolute()}/data", "there": "/models"}  # nobody else has that path
            database.execute("UPDATE jobs SET request = replace(request, :here, :there)", names)
        settings = Settings(
            state_dir=Path(copy),
            storage_url=f"file://{(state_dir / 'storage').absolute()}",
            port=free_port(),
            ray_address="http://127.0.0.1:9",
            auth="none",
        )
        with running(settings) as api, sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=CHROMIUM, args=list(FLAGS))
            with visiting(browser, api.url, f"/jobs/{job}", viewport=SIZE) as page:
                page.locator("svg.chart").wait_for()
                page.locator('[data-event][data-type="job.succeeded"]').wait_for()
                page.screenshot(path=to)
            browser.close()


if __name__ == "__main__":
    take(Path(sys.argv[1]), sys.argv[2], ROOT / "docs" / "page.png")
