"""Commands that work on this machine: the service itself, runs without one, GGUF import.

Work that needs torch or Ray runs in a process of its own, so that the CLI starts without them.
"""

import contextlib
import importlib.util
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import Annotated, Any

import typer
from pydantic import ValidationError
from rich.console import Console

from api.cli.view import final_table, out, say_error, sweep_table
from api.cli.watch import JobWatch, reason_text, watch
from api.key_file import NAME as KEY_FILE
from api.settings import Settings
from pipeline.artifacts.refs import ManifestRef, ReportRef
from pipeline.job.events import DriverEvent, Event, FailureReason, JobFailed, JobSucceeded
from pipeline.report.data import ReportDocument
from pipeline.report.sweep import SweepDocument, read_any_report
from pipeline.request.spec_files import SpecError, checked, load_document
from pipeline.storage import ContentStore, LocalStore
from pipeline.storage.settings import PREFIX

JOB = "local"
LAST_LINES = 15
STOP_SECONDS = 30


def settings_from(**given: object) -> Settings:
    """Settings from the environment, replaced by the given ones. Raises SpecError that names the variable."""
    chosen: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    try:
        return Settings(**chosen)
    except ValidationError as error:
        first = error.errors()[0]
        name = PREFIX + "_".join(part for part in first["loc"] if isinstance(part, str)).upper()
        raise SpecError(f"{name}: {first['msg']}") from None


def serve(
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on.")] = None,
    state_dir: Annotated[
        Path | None, typer.Option(help="Directory of the embedded database, storage and Ray.")
    ] = None,
    allow_root: Annotated[
        list[Path] | None,
        typer.Option(help="Directory below which file: sources may lie; may be repeated."),
    ] = None,
    ray_address: Annotated[
        str | None, typer.Option(help="Dashboard of a Ray cluster; left out, a local Ray is started.")
    ] = None,
    log_level: Annotated[str | None, typer.Option(help="DEBUG, INFO, WARNING or ERROR.")] = None,
) -> None:
    """Run the service. Every other setting comes from the environment (SECATEUR_...)."""
    settings = settings_from(
        host=host,
        port=port,
        state_dir=state_dir,
        allowed_roots=tuple(allow_root) if allow_root else None,
        ray_address=ray_address,
        log_level=log_level,
    )
    from api.app import serve as run_service  # the other commands need no web framework

    typer.echo(page_line(settings))
    run_service(settings)


def page_line(settings: Settings) -> str:
    """A line with the address of a service's page, and the key to sign in with."""
    if settings.auth == "none":
        return f"the page: {settings.public_url}/"
    key = f"the key in {settings.state_dir / KEY_FILE}" if settings.embedded else "an API key"
    return f"the page: {settings.public_url}/ (sign in with {key})"


def import_gguf(
    file: Annotated[Path, typer.Argument(help="GGUF file.", exists=True, dir_okay=False)],
    directory: Annotated[Path, typer.Argument(help="Directory for the checkpoint.")],
) -> None:
    """Convert a GGUF file into a Hugging Face checkpoint with safetensors weights."""
    require_worker()
    done = subprocess.run(
        module_command("workers.local.import_gguf", str(file), str(directory)),
        env=child_environment(),
        check=False,
    )
    raise typer.Exit(min(abs(done.returncode), 1))


def run(
    spec: Annotated[str, typer.Argument(help="YAML or JSON file as for submit; - is standard input.")],
    storage: Annotated[Path, typer.Option(help="Directory for results and the stage cache.")] = Path(
        ".secateur/storage"
    ),
    overrides: Annotated[
        list[str] | None, typer.Option("--set", help="Change a field; may be repeated.")
    ] = None,
    log: Annotated[Path | None, typer.Option(help="File for the log; next to the storage.")] = None,
    local: Annotated[
        bool, typer.Option("--local", help="In one process, without Ray; the bits are the same.")
    ] = False,
) -> None:
    """Run a spec without the service, on a Ray of its own or in one process: exit code 0 when it succeeded, 1
    when it failed."""
    document = load_document(spec, overrides or [])
    checked(document)
    storage = storage.absolute()
    with tempfile.TemporaryDirectory(prefix="secateur-run-") as directory:
        written = Path(directory) / "job.json"
        written.write_text(json.dumps(document), encoding="utf-8")
        run_driver([str(written)], storage, (log or storage.parent / "run.log").absolute(), local=local)


def run_driver(
    work: Sequence[str], storage: Path, log: Path, *, local: bool
) -> ReportDocument | SweepDocument:
    """Run `python -m workers.run` with the arguments `work` to its end, and print the result. Raises
    typer.Exit when it failed."""
    require_worker()
    storage.mkdir(parents=True, exist_ok=True)
    log.parent.mkdir(parents=True, exist_ok=True)
    console = out()
    what = "running in one process" if local else "starting a local Ray"
    console.print(f"{what}, log: {log}", soft_wrap=True)
    seen: list[Event] = []
    with ended_by_sigterm(), _driver(work, storage, log, local=local) as events:
        state = watch(_kept(events, seen), JobWatch(JOB), console)
    if state.status != "succeeded":
        assert state.error is not None, "a run that did not succeed says why"
        say_error(reason_text(state.error))
        raise typer.Exit(1)
    assert state.started_at is not None, "what succeeded has started"
    assert state.finished_at is not None, "watch ends with the end"
    seconds = (state.finished_at - state.started_at).total_seconds()
    return _say_result(seen, storage, console, seconds=seconds)


def require_worker() -> None:
    """Raise SpecError unless the worker's packages are installed."""
    if importlib.util.find_spec("ray") is None or importlib.util.find_spec("torch") is None:
        raise SpecError("this needs torch and ray on this machine: pip install 'secateur[worker]'")


def module_command(module: str, *arguments: str) -> list[str]:
    """The command `python -m module ...` with this Python."""
    return [sys.executable, "-m", module, *arguments]


def child_environment() -> dict[str, str]:
    """This process's environment, with a PYTHONPATH by which children import the same code."""
    here = str(Path(__file__).resolve().parents[2])
    path = os.pathsep.join(part for part in (here, os.environ.get("PYTHONPATH", "")) if part)
    return {**os.environ, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1"}


def stop(process: subprocess.Popen[bytes], *signals: signal.Signals) -> None:
    """End a child process with one signal after the other, at last SIGKILL, and wait until it has ended."""
    for asked in (*signals, signal.SIGKILL):
        if process.poll() is not None:
            return
        process.send_signal(asked)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(STOP_SECONDS)


@contextlib.contextmanager
def ended_by_sigterm() -> Iterator[None]:
    """Make SIGTERM unwind the block like Ctrl-C, so that child processes are ended too."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def last_lines(log: Path) -> str:
    """The last lines of the log of a child that has died."""
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines() if log.exists() else []
    return "\n".join(lines[-LAST_LINES:])


@contextlib.contextmanager
def _driver(work: Sequence[str], storage: Path, log: Path, *, local: bool) -> Iterator[Iterator[Event]]:
    """Yields the events of `python -m workers.run`, a JSON line of its output each, and one of its end."""
    with log.open("wb") as errors:
        process = subprocess.Popen(
            module_command("workers.run", *work, "--storage", str(storage), *(["--here"] if local else [])),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            env=child_environment(),
            start_new_session=True,  # Ctrl-C reaches us alone; we stop the child below
        )
        try:
            yield _events(process)
        finally:
            stop(process, signal.SIGINT, signal.SIGTERM)
            assert process.stdout is not None
            process.stdout.close()


def _events(process: subprocess.Popen[bytes]) -> Iterator[Event]:
    assert process.stdout is not None
    number, failed = 0, None
    for line in process.stdout:
        try:
            reported = DriverEvent.model_validate_json(line)
        except ValidationError:
            continue  # libraries print other lines
        number += 1
        if reported.body.type == "attempt.failed":
            failed = reported.body.reason
        yield Event(id=number, job=JOB, attempt=1, at=reported.at, body=reported.body)
    code = process.wait()
    if code == 0:
        body: JobSucceeded | JobFailed = JobSucceeded()
    else:
        message = f"the driver ended with exit code {code}"
        gone = FailureReason(code="driver_died", message=message, blame="machine")
        body = JobFailed(reason=failed or gone)
    yield Event(id=number + 1, job=JOB, attempt=1, at=datetime.now(UTC), body=body)


def _kept(events: Iterable[Event], seen: list[Event]) -> Iterator[Event]:
    for event in events:
        if event.body.type == "stage.finished":
            seen.append(event)
        yield event


def _say_result(
    finished: Iterable[Event], storage: Path, console: Console, *, seconds: float
) -> ReportDocument | SweepDocument:
    content = ContentStore(LocalStore(storage))
    artifacts = [
        artifact
        for event in finished
        if event.body.type == "stage.finished"
        for artifact in event.body.result.artifacts.values()
    ]
    report = next(artifact for artifact in artifacts if isinstance(artifact, ReportRef))
    document = read_any_report(content.get_bytes(report.file(ReportRef.JSON)))
    page = storage.parent / "reports" / f"{report.digest[:12]}.html"
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_bytes(content.get_bytes(report.file(ReportRef.PAGE)))
    if isinstance(document, SweepDocument):
        console.print(sweep_table(document, seconds=seconds, report=""))
    else:
        manifest = next(artifact for artifact in artifacts if isinstance(artifact, ManifestRef))
        made = str(storage / manifest.prefix)
        console.print(final_table(document.summary, seconds=seconds, checkpoint=made))
    console.print(str(page), soft_wrap=True)
    return document
