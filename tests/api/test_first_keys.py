"""Keys that are there before anybody could ask for one, and keys on the command line."""

import http.server
import json
import re
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from api.auth import new_key
from api.client.client import ClientError, SecateurClient
from api.db.engine import Database
from api.db.migrate import upgrade
from api.errors import ApiError
from api.key_file import read_key, write_key
from api.service.jobs.views import FileView
from api.service.keys import first_keys, keys
from api.settings import Settings
from tests.api.conftest import KEY, RunningApi, free_port, running
from tests.api.terminal import cli


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    database = Database(database_url)
    upgrade(database)
    yield database
    database.close()


def role(database: Database, key: str | None) -> str:
    """What a key may do; the error code when nothing."""
    assert key is not None
    try:
        return keys.check(database, key).role
    except ApiError as error:
        return error.code


def test_the_key_of_the_setting(
    database: Database, make_settings: Callable[..., Settings], caplog: pytest.LogCaptureFixture
) -> None:
    def start(key: str | None) -> None:
        first_keys.prepare(make_settings(admin_key=key), database)

    start(None)
    assert "there is no admin key: `secateur keys bootstrap` or SECATEUR_ADMIN_KEY" in caplog.text
    first, same_prefix = "sec_kubernetes_" + "a" * 40, "sec_kubernetes_" + "b" * 40
    foreign = "Zm9yZWlnbg+/=.~_-" * 2
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(start, [first] * 4))
    assert role(database, first) == "admin"
    assert [(key.name, key.prefix) for key in keys.list_all(database)] == [("bootstrap", "sec_kubernetes")]
    start(same_prefix)
    assert (role(database, first), role(database, same_prefix)) == ("key_revoked", "admin")
    start(foreign)
    assert (role(database, same_prefix), role(database, foreign)) == ("key_revoked", "admin")
    # A process of the version before starts once more: its key does not come back, nor end the new one.
    start(first)
    assert "SECATEUR_ADMIN_KEY is the key sec_kubernetes, which is revoked" in caplog.text
    assert (role(database, first), role(database, foreign)) == ("key_revoked", "admin")
    start(None)
    assert role(database, foreign) == "admin"
    assert not any(key in caplog.text for key in (first, same_prefix, foreign))


@pytest.mark.parametrize("key", ["short", "x" * 31, "x" * 201, "with space " * 4, "ä" * 40, "a;" * 20])
def test_a_weak_key_in_the_setting_is_refused(make_settings: Callable[..., Settings], key: str) -> None:
    with pytest.raises(ValidationError, match="32 to 200 characters") as refused:
        make_settings(admin_key=key)
    assert key not in str(refused.value)


def test_the_key_of_the_state_directory(
    database: Database,
    make_settings: Callable[..., Settings],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO")
    settings = make_settings(ray_address=None)
    file = settings.state_dir / "api-key"

    def start(database: Database) -> str:
        first_keys.prepare(settings, database)
        key = read_key(settings.state_dir)
        assert role(database, key) == "admin"
        assert file.stat().st_mode & 0o777 == 0o600
        assert key is not None
        return key

    first = start(database)
    assert f"the admin key of this service is in {file}" in caplog.text
    file.chmod(0o644)
    assert start(database) == first
    # Another database, as after the first was deleted: the same file goes on.
    other = Database(f"sqlite:///{tmp_path}/other.db")
    upgrade(other)
    assert start(other) == first
    other.close()
    # Where the file is gone, a new key takes the place of the one that was in it.
    file.unlink()
    second = start(database)
    assert role(database, first) == "key_revoked"
    # One that was revoked is replaced, and so is what is no key.
    assert first_keys.bootstrap(database, name="another", force=True)
    keys.revoke(database, next(key.id for key in keys.list_all(database) if key.name.startswith("local ")))
    seen = {first, second, start(database)}
    for damaged in ("", "no key", "b" * 10, "\x00" * 40):
        file.write_text(damaged)
        seen.add(start(database))
    assert len(seen) == 7
    assert [path.name for path in settings.state_dir.iterdir() if "api-key" in path.name] == ["api-key"]
    assert not any(key in caplog.text for key in seen)


def test_the_first_key_by_command(
    database: Database, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECATEUR_DATABASE_URL", database_url)
    made = cli("keys", "bootstrap")
    assert made.exit_code == 0, made.output
    key = made.stdout.strip()
    assert role(database, key) == "admin"
    again = cli("keys", "bootstrap")
    assert (again.exit_code, again.stdout) == (1, "")
    assert "there is an admin key already" in again.stderr
    forced = cli("keys", "bootstrap", "--force", "--name", "found again")
    assert role(database, forced.stdout.strip()) == "admin"
    assert {one.name for one in keys.list_all(database)} == {"admin", "found again"}
    assert "--name got" in cli("keys", "bootstrap", "--name", "").stderr
    assert "choose another" in cli("keys", "bootstrap", "--name", "bootstrap").stderr
    monkeypatch.setenv("SECATEUR_DATABASE_URL", "postgresql+psycopg://user:password@127.0.0.1:9/x")
    away = cli("keys", "bootstrap")
    assert (away.exit_code, away.stderr.count("\n")) == (2, 1)
    assert "SECATEUR_DATABASE_URL: the database refuses" in away.stderr
    assert "password" not in away.stderr


def test_keys_on_the_command_line(sqlite_api: RunningApi) -> None:
    url = sqlite_api.url
    made = cli("keys", "create", "--name", "ci", "--role", "submitter", "--expires-days", "7", url=url)
    assert made.exit_code == 0, made.output
    key = made.stdout.strip()
    prefix = "_".join(key.split("_")[:2])
    assert "it is not shown again" in made.stderr
    assert cli("keys", "whoami", url=url, key=key).stdout == f"ci: submitter, {prefix}...\n"
    assert cli("jobs", url=url, key=key).stdout == "no jobs\n"
    refused = cli("keys", "list", url=url, key=key)
    assert (refused.exit_code, refused.stdout) == (1, "")
    assert "this needs the role admin" in refused.stderr
    listed = cli("keys", "list", url=url).stdout
    assert re.search(rf"{prefix}\.\.\. +submitter +ci +active", listed)
    assert key not in listed
    assert cli("keys", "revoke", key, url=url).stdout.endswith(f"{prefix} (ci) revoked\n")
    assert prefix not in cli("keys", "list", url=url).stdout
    everything = json.loads(cli("keys", "list", "--all", "--json", url=url).stdout)
    assert [one["state"] for one in everything] == ["revoked", "active"]
    viewer = json.loads(cli("keys", "create", "--name", "tv", "--role", "viewer", "--json", url=url).stdout)
    assert viewer["key"].startswith("sec_")
    for given, told in (
        (("create", "--name", "x", "--role", "submiter"), "did you mean 'submitter'?"),
        (("create", "--name", "x", "--role", "admin", "--expires-days", "0"), "--expires-days got 0"),
        (("revoke", "sec_nobody0000"), "no key begins with 'sec_nobody0000'"),
    ):
        wrong = cli("keys", *given, url=url)
        assert (wrong.exit_code, wrong.stdout) == (2, "")
        assert told in wrong.stderr


@pytest.mark.parametrize("command", ["jobs", "keys whoami", "watch job-00000000000000000000"])
def test_without_a_key_the_command_line_says_how(
    sqlite_api: RunningApi, command: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("SECATEUR_STATE_DIR", str(tmp_path / "nothing"))
    for key, why in ((None, "an API key is needed"), (new_key(), "is unknown here")):
        result = cli(*command.split(), url=sqlite_api.url, key=key)
        assert (result.exit_code, result.stderr.count("\n")) == (1, 1)
        assert why in result.stderr
        assert "set SECATEUR_API_KEY" in result.stderr
        assert "SECATEUR_STATE_DIR" in result.stderr


def test_a_service_on_this_machine_is_given_the_key_of_its_state(
    sqlite_api: RunningApi, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    state = tmp_path / "state"
    monkeypatch.setenv("SECATEUR_STATE_DIR", str(state))
    write_key(state, KEY)
    assert cli("jobs", url=sqlite_api.url, key=None).stdout == "no jobs\n"
    assert cli("jobs", url=sqlite_api.url.replace("127.0.0.1", "localhost"), key=None).exit_code == 0
    # What is given in the environment counts, even if it is wrong.
    assert "is unknown here" in cli("jobs", url=sqlite_api.url, key=new_key()).stderr
    nobody = cli("jobs", url=f"http://127.0.0.1:{free_port()}", key=None)
    assert "no Secateur answers" in nobody.stderr


class _Seen(http.server.BaseHTTPRequestHandler):
    """Notes who asks; `/moved` is at the next server."""

    def do_GET(self) -> None:
        server: Any = self.server
        server.seen.append((self.path, self.headers.get("Authorization")))
        if self.path == "/moved":
            self.send_response(307)
            self.send_header("Location", server.next)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(200)
        self.send_header("Content-Length", "7")
        self.end_headers()
        self.wfile.write(b"weights")

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        """Nothing."""


@pytest.fixture
def two_servers() -> Iterator[tuple[Any, Any]]:
    servers: list[Any] = [http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Seen) for _ in range(2)]
    for server in servers:
        server.seen = []
        server.url = f"http://127.0.0.1:{server.server_port}"
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    servers[0].next = servers[1].url + "/bucket/blob?X-Amz-Signature=0"
    yield servers[0], servers[1]
    for server in servers:
        server.shutdown()
        server.server_close()


def test_the_key_goes_to_the_service_alone(two_servers: tuple[Any, Any]) -> None:
    service, storage = two_servers

    def file(url: str) -> FileView:
        return FileView(path="model.safetensors", size=7, sha256="0" * 64, url=url)

    with SecateurClient(service.url, api_key=KEY) as client:
        assert b"".join(client.file(file("/moved"))) == b"weights"
        assert b"".join(client.file(file("/here"))) == b"weights"
        assert b"".join(client.file(file(storage.url + "/elsewhere"))) == b"weights"
    assert service.seen == [("/moved", f"Bearer {KEY}"), ("/here", f"Bearer {KEY}")]
    assert storage.seen == [("/bucket/blob?X-Amz-Signature=0", None), ("/elsewhere", None)]
    assert KEY not in repr(vars(client))


@pytest.mark.servers
def test_a_start_by_hand_has_all_of_it(make_settings: Callable[..., Settings]) -> None:
    key = "h" * 48  # as Helm's randAlphaNum makes it
    settings = make_settings(ray_address=None, admin_key=key)
    with running(settings) as api:
        local = read_key(settings.state_dir)
        for good in (key, local):
            with SecateurClient(api.url, api_key=good) as client:
                assert client.whoami().role == "admin"
                assert list(client.jobs()) == []
        with SecateurClient(api.url) as client, pytest.raises(ClientError, match="an API key is needed"):
            client.whoami()
