"""Keys: made, used, noted, revoked, on both databases; and what is never seen of them."""

import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import select, text

from api.auth import OUR_KEY, key_prefix, new_key
from api.db.models import ApiKey
from api.service.keys.views import NewKeyView
from api.settings import Settings
from tests.api.conftest import KEY, RunningApi, with_key


def make(api: RunningApi, **sent: Any) -> dict[str, Any]:
    answer = api.client.post("/keys", json={"name": "night shift", **sent})
    assert answer.status_code == 201, answer.text
    made: dict[str, Any] = answer.json()
    return made


def status(api: RunningApi, key: str, path: str = "/keys/me") -> tuple[int, str | None]:
    with with_key(api.url, key) as client:
        answer = client.get(path)
    return answer.status_code, answer.json().get("error", {}).get("code")


def change(api: RunningApi, key_id: str, **values: Any) -> None:
    with api.services.database.write() as session:
        row = session.get(ApiKey, key_id)
        assert row is not None
        for name, value in values.items():
            setattr(row, name, value)


def test_the_life_of_a_key(api: RunningApi) -> None:
    made = make(api, role="submitter")
    assert re.fullmatch(r"sec_[0-9a-z]{10}_[\w-]{43}", made["key"])
    assert made["key"].startswith(made["prefix"] + "_")
    assert (made["role"], made["state"], made["expires_at"], made["last_used_at"]) == (
        *("submitter", "active"),
        *(None, None),
    )
    with with_key(api.url, made["key"]) as client:
        assert client.get("/keys/me").json() == {
            "name": "night shift",
            "role": "submitter",
            "prefix": made["prefix"],
        }
    listed = api.client.get("/keys")
    assert listed.json()["data"][0]["id"] == made["id"]
    assert listed.json()["data"][0]["last_used_at"] is not None
    assert "key" not in listed.json()["data"][0]
    assert made["key"] not in listed.text

    revoked = api.client.post(f"/keys/{made['id']}/revoke")
    assert (revoked.status_code, revoked.json()["state"]) == (200, "revoked")
    assert status(api, made["key"]) == (401, "key_revoked")
    assert api.client.post(f"/keys/{made['id']}/revoke").json() == revoked.json()
    for unknown in ("key-00000000000000000000", "key-%00", made["prefix"]):
        assert api.client.post(f"/keys/{unknown}/revoke").status_code == 404


def test_keys_expire(api: RunningApi) -> None:
    made = make(api, role="viewer", expires_days=30)
    assert made["expires_at"] - made["created_at"] == pytest.approx(30 * 86_400, abs=1)
    assert status(api, made["key"]) == (200, None)
    change(api, made["id"], expires_at=datetime.now(UTC) - timedelta(seconds=1))
    assert status(api, made["key"]) == (401, "key_expired")
    assert api.client.get("/keys").json()["data"][0]["state"] == "expired"


def test_the_last_admin_key_stays(api: RunningApi) -> None:
    mine = next(key for key in api.client.get("/keys").json()["data"] if key["name"] == "tests")
    answer = api.client.post(f"/keys/{mine['id']}/revoke")
    assert (answer.status_code, answer.json()["error"]["code"]) == (409, "last_admin_key")
    assert "make another one first" in answer.json()["error"]["message"]
    expired = make(api, role="admin", expires_days=1)
    change(api, expired["id"], expires_at=datetime.now(UTC))
    assert api.client.post(f"/keys/{mine['id']}/revoke").status_code == 409
    second = make(api, role="admin")
    # Both ask at the same time to end the other: one admin is left.
    pairs = [(KEY, second["id"]), (second["key"], mine["id"])]

    def revoke(pair: tuple[str, str]) -> int:
        with with_key(api.url, pair[0]) as client:
            return client.post(f"/keys/{pair[1]}/revoke").status_code

    with ThreadPoolExecutor(2) as pool:
        assert sorted(pool.map(revoke, pairs)) in ([200, 401], [200, 409])


def test_use_is_noted_once_a_minute(api: RunningApi) -> None:
    made = make(api)

    def used() -> int:
        listed = api.client.get("/keys").json()["data"]
        return next(key["last_used_at"] or 0 for key in listed if key["id"] == made["id"])

    assert used() == 0
    long_ago = datetime.now(UTC) - timedelta(minutes=2)
    just_now = datetime.now(UTC) - timedelta(seconds=1)
    change(api, made["id"], last_used_at=just_now)
    assert status(api, made["key"])[0] == 200
    assert used() == int(just_now.timestamp())
    change(api, made["id"], last_used_at=long_ago)
    assert status(api, made["key"])[0] == 200
    assert used() > int(just_now.timestamp())


def test_a_use_that_cannot_be_noted_refuses_nobody(
    sqlite_api: RunningApi, caplog: pytest.LogCaptureFixture
) -> None:
    made = make(sqlite_api)
    with sqlite_api.services.database.write() as session:
        session.execute(
            text(
                "CREATE TRIGGER full BEFORE UPDATE OF last_used_at ON api_keys "
                "BEGIN SELECT RAISE(ABORT, 'disk full'); END"
            )
        )
    assert status(sqlite_api, made["key"]) == (200, None)
    assert f"when {made['prefix']} was used could not be noted" in caplog.text


@pytest.mark.parametrize(
    ("sent", "param"),
    [
        ({"role": "viewer"}, "name"),
        ({"name": " ", "role": "viewer"}, "name"),
        ({"name": "a\x00b", "role": "viewer"}, "name"),
        ({"name": "x", "role": "root"}, "role"),
        ({"name": "x", "expires_days": 0}, "expires_days"),
        ({"name": "x", "key": "sec_mine"}, "key"),
        ({"name": "bootstrap", "role": "admin"}, "name"),
        ({"name": "local machine"}, "name"),
    ],
)
def test_refuses_odd_requests(shared_api: RunningApi, sent: dict[str, Any], param: str) -> None:
    answer = shared_api.client.post("/keys", json=sent)
    assert (answer.status_code, answer.json()["error"]["param"]) == (422, param), answer.text


@pytest.mark.parametrize("token", ["s" * 43, "s" * 41 + "_o", "-_" * 21 + "s"])
def test_secrets_are_stored_logged_and_told_nowhere(
    token: str,
    make_settings: Callable[..., Settings],
    sqlite_api: RunningApi,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Tokens may hold, and end in, the sign that parts a key."""
    caplog.set_level("DEBUG")
    monkeypatch.setattr("api.auth.new_token", lambda: token)
    made = make(sqlite_api, role="submitter")
    secret = made["key"].removeprefix(made["prefix"] + "_")
    forged = made["prefix"] + "_" + "f" * 43
    assert status(sqlite_api, made["key"]) == (200, None)
    refused = sqlite_api.anonymous.get("/jobs", headers={"Authorization": f"Bearer {forged}"})
    assert (refused.status_code, refused.json()["error"]["code"]) == (401, "key_refused")
    assert f"refused the key {made['prefix']}: unknown" in caplog.text
    assert f"{made['prefix']}" in caplog.text  # the access log says who
    with sqlite_api.services.database.read() as session:
        stored = [str(vars(row)) for row in session.scalars(select(ApiKey))]
    own = make_settings(admin_key="o" * 40)
    for seen in (caplog.text, refused.text, *stored, repr(NewKeyView(**made)), repr(own), str(own)):
        for unseen in (secret, "f" * 43, KEY, "o" * 40):
            assert unseen not in seen


@given(st.text(max_size=300))
def test_anything_may_be_presented(text: str) -> None:
    prefix = key_prefix(text)
    assert prefix is None or (text.isascii() and 32 <= len(text) <= 200 and len(prefix) <= 16)


def test_new_keys_are_keys() -> None:
    made = {new_key() for _ in range(100)}
    assert len(made) == 100
    assert all(OUR_KEY.fullmatch(key) for key in made)
    assert {len(key_prefix(key) or "") for key in made} == {14}
    assert (key_prefix("r" * 40) or "").startswith("own_")
    assert key_prefix("r" * 31) is None
