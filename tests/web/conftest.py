"""A service without a Ray whose jobs and schedules are played, and keys of every role."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page

from api.auth import Role
from api.settings import Settings
from tests.api.conftest import KEY, RunningApi, free_port, running
from tests.browser import visiting
from tests.web import scenes
from tests.web.nightly import nightly
from tests.web.scenes import Play

HOSTILE = "<img src=x onerror=\"document.title='taken'\">"


@dataclass(frozen=True)
class Site:
    """The service, with a job that succeeded and one that failed."""

    api: RunningApi
    done: Play
    failed: Play
    schedule: str

    @property
    def url(self) -> str:
        """Where it is."""
        return self.api.url

    def key(self, role: Role) -> str:
        """A new key."""
        answer = self.api.client.post("/keys", json={"name": f"a {role}", "role": role})
        return str(answer.json()["key"])


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """One for a module; tests add jobs of their own."""
    state = tmp_path_factory.mktemp("site")
    watched = _directory(state / "checkpoints")
    settings = Settings(
        state_dir=state, port=free_port(), ray_address="http://127.0.0.1:9", allowed_roots=(watched,)
    )
    with running(settings) as api:
        done = scenes.succeeded(api, name="nightly SmolLM2", labels={"team": "serving"})
        failed = scenes.play(api, name=HOSTILE)
        failed.begin()
        failed.progress("prune", 0, scenes.BLOCKS)
        failed.progress("prune", 3, scenes.BLOCKS)
        failed.fail(f"the Cholesky factorisation failed: {HOSTILE}")
        yield Site(api, done, failed, nightly(api, f"file:{watched}", done))


@pytest.fixture
def page(chromium: Browser, site: Site) -> Iterator[Page]:
    """Signed in as an admin."""
    with visiting(chromium, site.url, key=KEY) as opened:
        yield opened


def _directory(path: Path) -> Path:
    path.mkdir()
    return path
