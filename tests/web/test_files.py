"""What the page is made of, and how it is sent."""

import re
import tomllib
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import get_args

import httpx
import pytest

from api.cli.local import page_line
from api.routes.web import DIRECTORY, TYPES
from api.settings import Settings
from pipeline.job.events import EventBody
from tests.api.conftest import free_port, running

FILES = sorted(path.relative_to(DIRECTORY).as_posix() for path in DIRECTORY.rglob("*") if path.is_file())
SCRIPTS = [name for name in FILES if name.endswith(".js")]
ROOT = Path(__file__).resolve().parent.parent.parent


@pytest.fixture(scope="module")
def web(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """A client without a key."""
    state = tmp_path_factory.mktemp("web")
    with running(Settings(state_dir=state, port=free_port(), ray_address="http://127.0.0.1:9")) as api:
        yield api.anonymous


def content(name: str) -> str:
    return (DIRECTORY / name).read_text()


def test_the_page_is_open_and_strict(web: httpx.Client) -> None:
    answer = web.get("/")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    policy = answer.headers["content-security-policy"]
    assert policy.startswith("default-src 'self';")
    assert "unsafe" not in policy
    assert answer.headers["x-content-type-options"] == "nosniff"
    head = web.head("/")
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-length"] == str(len(answer.content))


def test_a_file_is_sent_once(web: httpx.Client) -> None:
    for name in FILES:
        _sent_once(web, name)


def _sent_once(web: httpx.Client, name: str) -> None:
    first = web.get(f"/web/{name}")
    assert first.content == (DIRECTORY / name).read_bytes()
    assert first.headers["content-type"] == TYPES[Path(name).suffix]
    assert first.headers["cache-control"] == "no-cache"
    for tag in (first.headers["etag"], f'"other", W/{first.headers["etag"]}', "*"):
        again = web.get(f"/web/{name}", headers={"If-None-Match": tag})
        assert (again.status_code, again.content) == (304, b"")
        assert again.headers["etag"] == first.headers["etag"]
    other = web.get(f"/web/{name}", headers={"If-None-Match": '"other"'})
    assert other.status_code == 200


@pytest.mark.parametrize(
    "path",
    [
        "/nowhere",
        "/web/",
        "/web/nothing.js",
        "/web/../app.py",
        "/web/%2e%2e/app.py",
        "/web//index.html",
    ],
)
def test_other_paths_stay_json_404(web: httpx.Client, path: str) -> None:
    answer = web.get(path)
    assert answer.status_code == 404
    assert answer.json()["error"]["code"] == "not_found"


def test_nothing_is_missing_and_nothing_comes_from_elsewhere() -> None:
    for name in SCRIPTS:
        for target in re.findall(r'from "([^"]+)"', content(name)):
            assert (DIRECTORY / name).parent.joinpath(target).resolve().is_file(), f"{name}: {target}"
    for target in re.findall(r'(?:src|href)="(/[^"]+)"', content("index.html")):
        assert target.removeprefix("/web/") in FILES
    for name in FILES:
        assert re.findall(r"https?://(?!www\.w3\.org/2000/svg)", content(name)) == [], name
    assert re.findall(r"<script(?! type=\"module\" src=)|<style| style=| on\w+=", content("index.html")) == []


def test_what_the_api_says_never_becomes_markup() -> None:
    sinks = re.compile(
        r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|DOMParser|\beval\(|new Function"
    )
    assert [name for name in SCRIPTS if sinks.search(content(name))] == []


def test_every_type_of_event_is_followed() -> None:
    union, _ = get_args(EventBody)
    types = [get_args(body.model_fields["type"].annotation)[0] for body in get_args(union)]
    listed = content("follow.js").partition("const TYPES = [")[2].partition("]")[0]
    assert re.findall(r'"([^"]+)"', listed) == types


def test_the_package_holds_every_file() -> None:
    data = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]["api"]
    held = [name for name in FILES if any(fnmatch(f"web/{name}", pattern) for pattern in data)]
    assert held == FILES
    assert max(name.count("/") for name in FILES) == 1  # setuptools' * stops at a slash, fnmatch's does not


def test_serving_says_where_the_page_is(tmp_path: Path) -> None:
    local = Settings(state_dir=tmp_path, port=9123)
    assert page_line(local) == (
        f"the page: http://127.0.0.1:9123/ (sign in with the key in {tmp_path / 'api-key'})"
    )
    assert page_line(Settings(state_dir=tmp_path, auth="none")) == "the page: http://127.0.0.1:8080/"
    shared = Settings(
        state_dir=tmp_path, ray_address="http://head:8265", public_url="https://secateur.example/"
    )
    assert page_line(shared) == "the page: https://secateur.example/ (sign in with an API key)"
