"""`secateur demo` prunes a real model through the real API, from nothing to the report."""

import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from api.cli.connect import connect
from api.cli.local import (
    child_environment,
    ended_by_sigterm,
    last_lines,
    module_command,
    require_worker,
    settings_from,
    stop,
)
from api.cli.view import final_table, out, say_error, took_seconds
from api.cli.watch import follow_job
from api.client.client import DEFAULT_URL, ClientError, SecateurClient, ServiceAwayError
from api.key_file import read_key
from api.service.jobs.views import JobView
from pipeline.allocations.owl import Owl
from pipeline.job.state import TERMINAL
from pipeline.methods.wanda import Wanda
from pipeline.request.prune_spec import JobRequest, Prune, PruneSpec
from pipeline.request.resources import Resources
from pipeline.spec.eval_tasks import EvalTask, EvalTasks
from pipeline.spec.evaluation import Evaluation, PerplexityText
from pipeline.spec.model import ModelSource
from pipeline.spec.patterns import Unstructured
from pipeline.spec.texts import Calibration

LABELS = {"secateur": "demo"}
DEMO_TASKS = ("arc_easy_slice", "piqa_slice", "winogrande_slice")
START_SECONDS = 120.0


def demo(
    url: Annotated[
        str | None,
        typer.Option(
            "--url",
            help="Use this service; left out, that of `secateur serve`, or one that is started and stopped.",
        ),
    ] = None,
    state_dir: Annotated[
        Path | None, typer.Option(help="State directory of the service; model and texts are in its `demo`.")
    ] = None,
) -> None:
    """Prune a real 134-million-parameter model to 50 % through the real API, and show the result."""
    require_worker()
    console = out()
    state = (state_dir or settings_from().state_dir).absolute()
    home = state / "demo"
    data = home / "data"
    _prepare(data, console)
    with ended_by_sigterm(), contextlib.ExitStack() as stack:
        if url is None and _runs(DEFAULT_URL, state):
            console.print(f"using the service at {DEFAULT_URL}")
            url = DEFAULT_URL
        if url is None:
            own = stack.enter_context(_service(state, data, home / "service.log", console))
            client = stack.enter_context(SecateurClient(own, api_key=read_key(state)))
        else:
            client = stack.enter_context(connect(url))
        job = follow_job(client, _job(client, data, console), console)
        if job.status != "succeeded":
            say_error(job.error.message if job.error else f"the job is {job.status}")
            raise typer.Exit(1)
        page = _say_result(client, job, state, home, console)
        console.print(f"`make serve` shows it at {DEFAULT_URL}/#/jobs/{job.id}", soft_wrap=True)
    typer.echo(str(page))


def demo_request(data: Path) -> JobRequest:
    """The request of the demo. `data` is the directory that workers.demo_data has filled."""
    return JobRequest(
        spec=PruneSpec(
            model=ModelSource(source=f"file:{data}/smollm2-135m-instruct"),
            calibration=Calibration(
                source=f"file:{data}/calibration.txt",
                samples=16,
                sequence_length=512,
                seed=0,
                cut="random_window",
            ),
            prune=Prune(
                method=Wanda(),
                allocation=Owl(multiplier=5, spread=0.05),
                pattern=Unstructured(sparsity=0.5),
            ),
            evaluation=Evaluation(
                perplexity=(
                    PerplexityText(
                        source=f"file:{data}/wiki.txt",
                        documents="file",
                        characters=400_000,
                        sequence_length=512,
                        windows=16,
                        bos="none",
                    ),
                ),
                tasks=EvalTasks(
                    tasks=tuple(EvalTask(name=name) for name in DEMO_TASKS),
                    include=f"file:{data}/eval_tasks",
                    limit=40,
                ),
            ),
        ),
        resources=Resources(workers=2, cpus_per_worker=1, memory_per_worker="2GiB"),
        labels=LABELS,
        name="demo",
    )


def _prepare(data: Path, console: Console) -> None:
    console.print(f"model and texts: {data}", soft_wrap=True)
    done = subprocess.run(
        module_command("workers.demo_data", str(data)), env=child_environment(), check=False
    )
    if done.returncode != 0:
        raise ClientError("the demo's model and texts could not be prepared", code="demo_data_missing")


def _job(client: SecateurClient, data: Path, console: Console) -> str:
    """The id of a demo's job that was interrupted, or of a new one."""
    request = demo_request(data)
    if (os.cpu_count() or 1) < request.resources.workers:
        alone = request.resources.model_copy(update={"workers": 1})
        request = request.model_copy(update={"resources": alone})
    for job in client.jobs(labels=LABELS):
        if job.status not in TERMINAL and job.spec == request.spec:
            console.print(f"continuing with {job.id}")
            return job.id
    return client.submit(request).id


def _say_result(client: SecateurClient, job: JobView, state: Path, home: Path, console: Console) -> Path:
    document = client.report(job.id)
    page = home / "reports" / f"{job.id}.html"
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_bytes(client.report_html(job.id))
    published = state / "storage" / document.data.manifest_prefix
    console.print(
        final_table(
            document.summary,
            seconds=took_seconds(job),
            checkpoint=str(published) if published.is_dir() else document.data.manifest_prefix,
        )
    )
    return page


def _runs(url: str, state: Path) -> bool:
    """Tells whether the service of this state directory answers at the URL."""
    key = read_key(state)
    if key is None:
        return False
    with SecateurClient(url, timeout=5, api_key=key) as client, contextlib.suppress(ClientError):
        client.whoami()
        return True
    return False


@contextlib.contextmanager
def _service(state: Path, data: Path, log: Path, console: Console) -> Iterator[str]:
    """Runs a service of our own within the block, and yields its address."""
    port = _free_port()
    url = f"http://127.0.0.1:{port}"
    given = {
        "SECATEUR_STATE_DIR": str(state),
        "SECATEUR_STORAGE_URL": (state / "storage").as_uri(),
        "SECATEUR_DATABASE_URL": "",
        "SECATEUR_RAY_ADDRESS": "",
        "SECATEUR_HOST": "127.0.0.1",
        "SECATEUR_PORT": str(port),
        "SECATEUR_PUBLIC_URL": url,
        "SECATEUR_ALLOWED_ROOTS": str(data),
    }
    console.print(f"starting the service at {url}, log: {log}", soft_wrap=True)
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output:
        process = subprocess.Popen(
            module_command("api.cli.main", "serve"),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**child_environment(), **given},
            start_new_session=True,  # Ctrl-C reaches us alone; we stop the child below
        )
    try:
        _wait_until_ready(url, process, log)
        yield url
    finally:
        stop(process, signal.SIGTERM, signal.SIGTERM)


def _wait_until_ready(url: str, process: "subprocess.Popen[bytes]", log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    with SecateurClient(url, timeout=5) as client:
        while time.monotonic() < deadline and process.poll() is None:
            with contextlib.suppress(ServiceAwayError):
                client.ping()
                return
            time.sleep(0.2)
    raise ClientError(f"the service did not start; the end of {log}:\n{last_lines(log)}", code="not_started")


def _free_port() -> int:
    with socket.socket() as candidate:
        candidate.bind(("127.0.0.1", 0))
        return int(candidate.getsockname()[1])
