"""Watching jobs to their end from the CLI, and fetching what they made."""

import json
import re
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from typer.testing import Result

from api.cli import demo as cli_demo
from api.cli.demo import demo_request
from api.client.client import SecateurClient
from api.settings import Settings
from pipeline.job.events import Event as JobEvent
from pipeline.job.events import JobCancelled
from pipeline.report.data import ReportDocument
from tests.api import played
from tests.api.bodies import body
from tests.api.conftest import RunningApi, running
from tests.api.terminal import cli, submit

Watching = Callable[[Callable[[], None]], None]


@pytest.fixture
def once_watched(monkeypatch: pytest.MonkeyPatch) -> Watching:
    """Have something done when a client has heard the first event of a job."""
    follow = SecateurClient.follow

    def when(then: Callable[[], None]) -> None:
        def overheard(
            client: SecateurClient, job_id: str, *, away: Callable[[str | None], None]
        ) -> Iterator[JobEvent]:
            events = follow(client, job_id, away=away)
            yield next(events)
            then()
            yield from events

        monkeypatch.setattr(SecateurClient, "follow", overheard)

    return when


def test_watch_a_job_that_succeeds(sqlite_api: RunningApi, once_watched: Watching) -> None:
    job = submit(sqlite_api)
    played.start(sqlite_api, job)
    once_watched(lambda: played.succeed(sqlite_api, job))
    result = cli("watch", job, url=sqlite_api.url)
    assert result.exit_code == 0, result.output
    lines = [line.split(maxsplit=1)[1] for line in result.stdout.splitlines() if re.match(r"\d\d:", line)]
    assert lines[:3] == ["job queued", "attempt 1 runs", "import_model      cached"]
    assert any(re.match(r"prune +0/2 block$", line) for line in lines)
    assert lines[-1] == "job succeeded"
    assert re.search(r"wiki.txt +19.53 +43.16 +2.210", result.stdout)
    assert f"{sqlite_api.url}/jobs/{job}/report" in result.stdout
    assert "2 of them from the cache" in result.stdout


def test_submit_and_watch_a_job_that_fails(sqlite_api: RunningApi) -> None:
    ended = threading.Event()

    def fail_it() -> None:
        with sqlite_api.secateur() as client:
            while not ended.wait(0.1):
                for job in client.jobs(status="queued"):
                    played.start(sqlite_api, job.id)
                    played.fail(sqlite_api, job.id)

    thread = threading.Thread(target=fail_it)
    thread.start()
    result = cli("submit", "-", "--watch", url=sqlite_api.url, text=json.dumps(body()))
    ended.set()
    thread.join()
    assert result.exit_code == 1
    assert result.stderr == "error: at prune: the loss is not finite (spec.prune)\n"
    assert "secateur retry" in result.stdout


def test_watch_a_cancelled_job(sqlite_api: RunningApi) -> None:
    job = submit(sqlite_api)
    played.say(sqlite_api, job, JobCancelled(), attempt=0)
    assert cli("watch", job, url=sqlite_api.url).exit_code == 130


def test_watch_sees_beyond_an_earlier_failure(sqlite_api: RunningApi) -> None:
    job = submit(sqlite_api)
    played.fail(sqlite_api, job)
    cli("retry", job, url=sqlite_api.url)
    played.start(sqlite_api, job)
    played.succeed(sqlite_api, job)
    result = cli("watch", job, url=sqlite_api.url)
    assert result.exit_code == 0
    assert "job failed: the loss is not finite (spec.prune) (at prune)" in result.stdout


@pytest.mark.servers
def test_watch_survives_a_restart_of_the_service(
    make_settings: Callable[..., Settings], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = make_settings()
    watched: list[Result] = []
    seen, gone = threading.Event(), threading.Event()
    follow = SecateurClient.follow

    def overheard(
        client: SecateurClient, job_id: str, *, away: Callable[[str | None], None]
    ) -> Iterator[JobEvent]:
        def told(why: str | None) -> None:
            away(why)
            gone.set()

        for event in follow(client, job_id, away=told):
            yield event
            seen.set()

    monkeypatch.setattr(SecateurClient, "follow", overheard)
    with running(settings) as service:
        job = submit(service)
        played.start(service, job)
        watcher = threading.Thread(target=lambda: watched.append(cli("watch", job, url=service.url)))
        watcher.start()
        seen.wait()
    gone.wait()
    with running(settings) as service:
        played.succeed(service, job)
        watcher.join()
    assert watched[0].exit_code == 0, watched[0].output
    text = watched[0].stdout
    assert "the service is away, trying again" in text
    assert "the service is back" in text
    assert text.count("attempt 1 runs") == 1
    assert text.count("job succeeded") == 1


def test_report(sqlite_api: RunningApi, tmp_path: Path) -> None:
    job = submit(sqlite_api)
    early = cli("report", job, url=sqlite_api.url)
    assert early.exit_code == 1
    assert "has no report" in early.stderr
    played.succeed(sqlite_api, job)
    shown = cli("report", job, url=sqlite_api.url).stdout
    assert "43.16" in shown
    assert re.search(r"arc_easy +acc_norm +0 +0\.5500 ± 0\.0200 +0\.3000 ± 0\.0200 +-0\.2500", shown)
    assert "mmlu_anatomy" not in shown
    assert "limit 25: not comparable with published figures" in shown
    assert cli("report", job, "--html", url=sqlite_api.url).stdout.startswith("<!DOCTYPE html>")
    page, figures = tmp_path / "report.html", tmp_path / "report.json"
    assert cli("report", job, "--output", str(page), url=sqlite_api.url).stdout == f"{page}\n"
    assert page.read_text().startswith("<!DOCTYPE html>")
    cli("report", job, "--output", str(figures), url=sqlite_api.url)
    assert ReportDocument.model_validate_json(
        figures.read_bytes()
    ).summary.achieved_sparsity == pytest.approx(0.5, abs=1e-4)
    refused = cli("report", job, "--output", "/nowhere/report.html", url=sqlite_api.url)
    assert (refused.exit_code, refused.stderr) == (
        1,
        "error: /nowhere/report.html: No such file or directory\n",
    )


def test_download_verifies_and_goes_on(sqlite_api: RunningApi, tmp_path: Path) -> None:
    job = submit(sqlite_api)
    target = tmp_path / "out"
    assert "has not published anything" in cli("download", job, str(target), url=sqlite_api.url).stderr
    played.succeed(sqlite_api, job)
    result = cli("download", job, str(target), url=sqlite_api.url)
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines()[-1] == str(target / "manifest.json")
    assert (target / "weights" / "model.safetensors").read_bytes() == played.WEIGHTS
    kept = (target / "config.json").stat().st_mtime_ns
    (target / "weights" / "model.safetensors").write_bytes(played.WEIGHTS[:-1] + b"x")
    assert cli("download", job, str(target), url=sqlite_api.url).exit_code == 0
    assert (target / "weights" / "model.safetensors").read_bytes() == played.WEIGHTS
    assert (target / "config.json").stat().st_mtime_ns == kept
    assert not list(target.rglob(".part-*"))


def test_download_refuses_damaged_content(sqlite_api: RunningApi, tmp_path: Path) -> None:
    job = submit(sqlite_api)
    played.succeed(sqlite_api, job)
    content = sqlite_api.services.content
    config = content.put_bytes(played.CONFIG)
    content.store.put(content.key(config), [b"?" * config.size])
    result = cli("download", job, str(tmp_path / "out"), url=sqlite_api.url)
    assert result.exit_code == 1
    assert not (tmp_path / "out" / "config.json").exists()
    assert not (tmp_path / "out" / "manifest.json").exists()


@pytest.fixture
def prepared(monkeypatch: pytest.MonkeyPatch) -> None:
    """The demo's model and texts need no preparation."""
    monkeypatch.setattr(cli_demo, "require_worker", lambda: None)
    monkeypatch.setattr(cli_demo, "module_command", lambda *arguments: [sys.executable, "-c", ""])


@pytest.mark.usefixtures("prepared")
def test_demo_goes_on_and_ends_with_the_report(
    sqlite_api: RunningApi, once_watched: Watching, tmp_path: Path
) -> None:
    with sqlite_api.secateur() as client:
        interrupted = client.submit(demo_request(tmp_path / "demo" / "data")).id
    once_watched(lambda: played.succeed(sqlite_api, interrupted))
    result = cli("demo", "--state-dir", str(tmp_path), url=sqlite_api.url)
    assert result.exit_code == 0, result.output
    assert f"continuing with {interrupted}" in result.stdout
    assert "43.16" in result.stdout
    page = Path(result.stdout.splitlines()[-1])
    assert page == tmp_path / "demo" / "reports" / f"{interrupted}.html"
    assert page.read_text().startswith("<!DOCTYPE html>")


@pytest.mark.usefixtures("prepared")
def test_demo_says_why_its_service_did_not_start(tmp_path: Path) -> None:
    result = cli("demo", "--state-dir", str(tmp_path))
    assert result.exit_code == 1
    assert "error: the service did not start" in result.stderr
