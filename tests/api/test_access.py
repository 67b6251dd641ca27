"""No route without a key: every one is walked over. And the cookie of the web page."""

import re
from collections.abc import Iterator

import httpx
import pytest
from fastapi.routing import iter_route_contexts

from api.auth import ROLES, Role, may
from api.routes.access import COOKIE
from api.service.keys import keys
from api.service.keys.views import KeyRequest
from api.settings import Settings
from tests.api.bodies import body
from tests.api.conftest import AUTHORIZED, KEY, RunningApi, free_port, running, with_key

# Whoever reaches the service may call these, and nothing else.
OPEN = {
    "/",
    "/web/{name:path}",
    "/healthz",
    "/readyz",
    "/metrics",
    "/docs",
    "/docs/oauth2-redirect",
    "/redoc",
    "/openapi.json",
    "/schema/prune-spec",
    "/session",
}
OWN_TOKENS = "/internal/"
NO_JOB = "/jobs/job-00000000000000000000"


def routes(api: RunningApi) -> Iterator[tuple[str, str]]:
    """Method and path of everything that is not open."""
    for route in iter_route_contexts(api.app.routes):
        assert route.path is not None
        if route.path in OPEN:
            continue
        for method in sorted(route.methods or {"GET"}):
            yield method, re.sub(r"{[^}]*}", "x", route.path)


def needed(method: str, path: str) -> Role:
    """What README says."""
    if path.startswith("/keys") and path != "/keys/me":
        return "admin"
    return "viewer" if method in ("GET", "HEAD") else "submitter"


def refusal(answer: httpx.Response) -> tuple[int, str]:
    error = answer.json()["error"]
    assert set(error) >= {"code", "message", "param", "type"}
    return answer.status_code, error["code"]


@pytest.fixture(scope="module")
def by_role(shared_api: RunningApi) -> dict[Role, str]:
    """A key of each role."""
    database = shared_api.services.database
    return {role: keys.create(database, KeyRequest(name=f"a {role}", role=role)).key for role in ROLES}


def test_every_route_asks_for_a_key_of_its_role(shared_api: RunningApi, by_role: dict[Role, str]) -> None:
    walked = [route for route in routes(shared_api) if not route[1].startswith(OWN_TOKENS)]
    assert {("POST", "/jobs"), ("GET", "/jobs/x/events"), ("GET", "/jobs/x/logs"), ("GET", "/keys")} <= set(
        walked
    )
    anonymous = shared_api.anonymous
    for method, path in walked:
        for headers in ({}, {"Authorization": "Basic a2V5"}, {"Cookie": f"{COOKIE}="}):
            answer = anonymous.request(method, path, headers=headers)
            assert refusal(answer) == (401, "key_missing"), (method, path)
            assert answer.headers["WWW-Authenticate"] == "Bearer"
        for headers in ({"Authorization": f"Bearer {KEY[:-1]}x"}, {"Cookie": f"{COOKIE}={KEY[:-1]}x"}):
            answer = anonymous.request(method, path, headers=headers)
            assert refusal(answer) == (401, "key_refused"), (method, path)
        for role, key in by_role.items():
            answer = anonymous.request(method, path, headers={"Authorization": f"Bearer {key}"})
            if may(role, needed(method, path)):
                assert answer.status_code not in (401, 403), (method, path, role, answer.text)
            else:
                assert refusal(answer) == (403, "role_too_small"), (method, path, role)
                assert needed(method, path) in answer.json()["error"]["message"]


def test_drivers_have_tokens_of_their_own(shared_api: RunningApi) -> None:
    internal = [route for route in routes(shared_api) if route[1].startswith(OWN_TOKENS)]
    assert internal
    path = "/internal/attempts/job-00000000000000000000/1/events"
    assert refusal(shared_api.anonymous.post(path, json={"events": []})) == (401, "token_missing")
    assert refusal(shared_api.client.post(path, json={"events": []})) == (403, "token_refused")


@pytest.mark.parametrize("name", ["key", "api_key", "access_token", "token", "authorization", COOKIE])
def test_a_key_in_the_query_is_none(shared_api: RunningApi, name: str) -> None:
    assert shared_api.anonymous.get("/jobs", params={name: KEY}).status_code == 401
    assert shared_api.anonymous.get("/jobs", params={name: f"Bearer {KEY}"}).status_code == 401


def test_what_is_open_answers_without(shared_api: RunningApi) -> None:
    for path in OPEN - {"/readyz", "/session"}:
        assert shared_api.anonymous.get(path.replace("{name:path}", "app.js")).status_code == 200, path
    assert shared_api.anonymous.get("/readyz").status_code == 503  # no Ray; not 401
    assert shared_api.anonymous.get("/nothing/here").status_code == 404


def test_openapi_says_where_keys_are_needed(shared_api: RunningApi) -> None:
    described = shared_api.anonymous.get("/openapi.json")
    schemes = described.json()["components"]["securitySchemes"]
    assert (schemes["key"]["type"], schemes["key"]["scheme"]) == ("http", "bearer")
    assert (schemes["session"]["in"], schemes["session"]["name"]) == ("cookie", COOKIE)
    for path, operations in described.json()["paths"].items():
        for operation in operations.values():
            free = path in OPEN or path.startswith(OWN_TOKENS)
            assert operation.get("security", []) == ([] if free else [{"key": []}, {"session": []}]), path
            assert free or {"401", "403"} <= operation["responses"].keys(), path
    assert not re.search(r"sec_[0-9a-z]{8,12}_[\w-]{20,}", described.text)


@pytest.fixture
def browser(shared_api: RunningApi) -> Iterator[httpx.Client]:
    """A browser that is signed in."""
    with httpx.Client(base_url=shared_api.url, trust_env=False, timeout=30) as browser:
        assert browser.post("/session", json={"key": KEY}).status_code == 204
        yield browser


def test_a_browser_signs_in_and_out(browser: httpx.Client) -> None:
    assert browser.get("/keys/me").json() == {
        "name": "tests",
        "role": "admin",
        "prefix": "sec_tests00000",
    }
    assert browser.post("/plans", json=body()).status_code == 200
    assert browser.get(f"{NO_JOB}/events", headers={"Accept": "text/event-stream"}).status_code == 404
    # A header counts before the cookie.
    assert browser.get("/jobs", headers={"Authorization": "Bearer sec_no"}).status_code == 401
    assert browser.delete("/session").status_code == 204
    assert not browser.cookies
    assert browser.get("/keys/me").status_code == 401


def test_the_cookie_is_kept_from_scripts_and_other_sites(shared_api: RunningApi) -> None:
    answer = shared_api.anonymous.post("/session", json={"key": KEY})
    name, _, rest = answer.headers["set-cookie"].partition("=")
    attributes = {part.strip().lower() for part in rest.split(";")[1:]}
    shared_api.anonymous.cookies.clear()
    assert name == COOKIE
    assert attributes == {"httponly", "path=/", "samesite=strict"}
    assert answer.content == b""


@pytest.mark.parametrize("sent", [{"key": "sec_wrong00000_" + "x" * 43}, {"key": ""}, {"key": "käse"}])
def test_only_good_keys_make_a_session(shared_api: RunningApi, sent: dict[str, str]) -> None:
    answer = shared_api.anonymous.post("/session", json=sent)
    assert refusal(answer) == (401, "key_refused")
    assert "set-cookie" not in answer.headers


@pytest.mark.parametrize("sent", [KEY, [KEY], {"key": [KEY]}, {"kye": KEY}, {"key": KEY, "more": KEY}])
def test_what_is_sent_to_session_is_not_said_again(shared_api: RunningApi, sent: object) -> None:
    answer = shared_api.anonymous.post("/session", json=sent)
    assert answer.status_code == 422
    assert "ttttt" not in answer.text


def test_pages_of_other_sites_can_do_nothing(shared_api: RunningApi, browser: httpx.Client) -> None:
    own = shared_api.url
    good = ({}, {"Origin": own}, {"Sec-Fetch-Site": "same-origin", "Origin": "http://behind.proxy"})
    bad = (
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": f"{own}0"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site", "Origin": own},
    )
    for headers in good:
        assert browser.post("/plans", json=body(), headers=headers).status_code == 200, headers
    for headers in bad:
        assert refusal(browser.post("/plans", json=body(), headers=headers)) == (403, "other_site"), headers
        assert refusal(browser.delete("/session", headers=headers)) == (403, "other_site"), headers
        answer = browser.post("/session", json={"key": KEY}, headers=headers)
        assert refusal(answer) == (403, "other_site"), headers
        # Who gives a key needs no protection from itself.
        assert browser.post("/plans", json=body(), headers=headers | AUTHORIZED).status_code == 200
        assert browser.get("/jobs", headers=headers).status_code == 200


@pytest.mark.servers
def test_https_outside_makes_the_cookie_secure(tmp_path_factory: pytest.TempPathFactory) -> None:
    settings = Settings(
        state_dir=tmp_path_factory.mktemp("https"),
        port=free_port(),
        ray_address="http://127.0.0.1:9",
        public_url="https://prune.example",
    )
    with running(settings) as api:
        answer = api.anonymous.post(
            "/session", json={"key": KEY}, headers={"Origin": "https://prune.example"}
        )
        assert answer.status_code == 204
        assert "Secure" in answer.headers["set-cookie"]


@pytest.mark.servers
def test_without_keys_everybody_may_do_everything(
    tmp_path_factory: pytest.TempPathFactory, caplog: pytest.LogCaptureFixture
) -> None:
    state = tmp_path_factory.mktemp("none")
    settings = Settings(
        state_dir=state, port=free_port(), ray_address="http://127.0.0.1:9", auth="none", host="0.0.0.0"
    )
    with running(settings) as api:
        assert "ANYONE who reaches 0.0.0.0" in caplog.text
        assert api.anonymous.post("/jobs", json=body()).status_code == 202
        assert api.anonymous.get("/keys/me").json() == {"name": "anyone", "role": "admin", "prefix": None}
        assert api.anonymous.post("/keys", json={"name": "for later", "role": "viewer"}).status_code == 201
        assert api.anonymous.post("/session", json={"key": "whatever"}).status_code == 204
        with with_key(api.url, "some other service's") as client:
            assert client.get("/jobs").status_code == 200
    assert not (state / "api-key").exists()
