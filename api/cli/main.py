"""The `secateur` command. `main()` is the console script."""

from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, get_args

import httpx
import typer
from typer.core import TyperGroup

from api.cli import compare as cli_compare
from api.cli import convert as cli_convert
from api.cli import demo as cli_demo
from api.cli import doctor as cli_doctor
from api.cli import keys as cli_keys
from api.cli import local as cli_local
from api.cli import masks as cli_masks
from api.cli import reproduce as cli_reproduce
from api.cli import schedules as cli_schedules
from api.cli import sparse as cli_sparse
from api.cli import structure as cli_structure
from api.cli.connect import REMEDY, Url, connect
from api.cli.job import say_links, say_result, watched
from api.cli.view import (
    job_details,
    jobs_table,
    out,
    plan_view,
    say_error,
    say_json,
)
from api.client.client import DEFAULT_URL, ClientError
from api.client.download import download as download_files
from pipeline.errors import SecateurError
from pipeline.job.state import Status
from pipeline.request.spec_files import SpecError, load_document

BAD_REQUEST = frozenset({400, 413, 415, 422})
STATUSES: tuple[str, ...] = get_args(Status)

Job = Annotated[str, typer.Argument(help="Id of a job.", show_default=False)]
Spec = Annotated[
    str, typer.Argument(help="YAML or JSON file with the body of POST /jobs; - is standard input.")
]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", help="Change a field, such as spec.prune.pattern.sparsity=0.6; may be repeated."),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


class _ErrorsInOneLine(TyperGroup):
    """Prints an expected error as one line, and exits with 2 when the request is wrong, else with 1."""

    def invoke(self, ctx: Any) -> Any:
        """Run a command."""
        try:
            return super().invoke(ctx)
        except SpecError as error:
            say_error(error.message, error.param)
            code = 2
        except ClientError as error:
            remedy = f"; {REMEDY}" if error.status == httpx.codes.UNAUTHORIZED else ""
            say_error(error.message + remedy, error.param)
            code = 2 if error.status in BAD_REQUEST else 1
        except SecateurError as error:
            say_error(error.message, error.param)
            code = 1
        except OSError as error:
            say_error(f"{error.filename or 'system'}: {error.strerror or error}")
            code = 1
        except KeyboardInterrupt:
            code = 130
        raise typer.Exit(code) from None


app = typer.Typer(
    cls=_ErrorsInOneLine,
    help="Prune large language models: post a spec, get a smaller checkpoint and the proof.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


@app.command()
def submit(
    spec: Spec,
    url: Url = DEFAULT_URL,
    overrides: Overrides = None,
    watch: Annotated[bool, typer.Option("--watch", help="Stay and watch the job.")] = False,
    idempotency_key: Annotated[
        str | None, typer.Option("--idempotency-key", help="A repeat with the same key gives the same job.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Post a job."""
    document = load_document(spec, overrides or [])
    with connect(url) as client:
        job = client.submit(document, idempotency_key=idempotency_key)
        if as_json:
            say_json(job)
        else:
            say_links(job, client.url)
        if watch:
            raise typer.Exit(watched(client, job.id))


@app.command()
def plan(
    spec: Spec,
    url: Url = DEFAULT_URL,
    overrides: Overrides = None,
    as_json: Json = False,
) -> None:
    """Show the stages that a spec would run, which are cached, and how much is read."""
    document = load_document(spec, overrides or [])
    with connect(url) as client:
        planned = client.plan(document)
    if as_json:
        say_json(planned)
    else:
        out().print(plan_view(planned))


@app.command()
def jobs(
    url: Url = DEFAULT_URL,
    status: Annotated[str | None, typer.Option(help=f"One of {', '.join(STATUSES)}.")] = None,
    label: Annotated[list[str] | None, typer.Option(help="key:value; may be repeated.")] = None,
    model: Annotated[str | None, typer.Option(help="A part of the model's source.")] = None,
    created_after: Annotated[datetime | None, typer.Option(help="Local time.")] = None,
    created_before: Annotated[datetime | None, typer.Option(help="Local time.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="How many.")] = 20,
    as_json: Json = False,
) -> None:
    """List jobs, newest first."""
    with connect(url) as client:
        found = client.jobs(
            status=_status(status),
            labels=dict(_label(text) for text in label or []),
            model=model,
            created_after=_seconds(created_after),
            created_before=_seconds(created_before),
            page=min(limit, 1000),
        )
        listed = [job for _, job in zip(range(limit), found, strict=False)]
    if as_json:
        say_json(listed)
    elif listed:
        out().print(jobs_table(listed))
    else:
        out().print("no jobs")


@app.command()
def show(job: Job, url: Url = DEFAULT_URL, as_json: Json = False) -> None:
    """Show one job."""
    with connect(url) as client:
        found = client.job(job)
        if as_json:
            say_json(found)
        else:
            out().print(job_details(found, client.url))


@app.command()
def watch(job: Job, url: Url = DEFAULT_URL) -> None:
    """Watch a job until it ends. Exit code: 0 succeeded, 1 failed, 130 cancelled or Ctrl-C."""
    with connect(url) as client:
        raise typer.Exit(watched(client, job))


@app.command()
def logs(
    job: Job,
    url: Url = DEFAULT_URL,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Continue until the job has ended.")] = False,
    attempt: Annotated[int | None, typer.Option(min=1, help="Number of the attempt; the latest.")] = None,
) -> None:
    """Print the output of a job's driver."""
    with connect(url) as client:
        for text in client.logs(job, attempt=attempt, follow=follow):
            typer.echo(text, nl=False)


@app.command()
def cancel(job: Job, url: Url = DEFAULT_URL) -> None:
    """Stop a job."""
    with connect(url) as client:
        typer.echo(f"{job} {client.cancel(job).status}")


@app.command()
def retry(job: Job, url: Url = DEFAULT_URL) -> None:
    """Queue a failed or cancelled job again; it uses its stored results."""
    with connect(url) as client:
        typer.echo(f"{job} {client.retry(job).status}")


@app.command()
def report(
    job: Job,
    url: Url = DEFAULT_URL,
    output: Annotated[
        Path | None, typer.Option(help="File to write: the figures if it ends in .json, else the page.")
    ] = None,
    html: Annotated[bool, typer.Option("--html", help="Print the page.")] = False,
    as_json: Json = False,
) -> None:
    """Print the figures of a finished job, or fetch its report."""
    with connect(url) as client:
        if output is not None:
            as_text = output.suffix == ".json"
            output.write_bytes(client.report_json(job) if as_text else client.report_html(job))
            typer.echo(str(output))
        elif html:
            typer.echo(client.report_html(job).decode("utf-8"), nl=False)
        elif as_json:
            typer.echo(client.report_json(job).decode("utf-8"), nl=False)
        else:
            say_result(client, client.job(job))


@app.command()
def download(
    job: Job,
    directory: Annotated[Path, typer.Argument(help="Directory for the checkpoint.")],
    url: Url = DEFAULT_URL,
    alias: Annotated[
        bool, typer.Option("--alias", help="JOB is an alias: the job that it points at.")
    ] = False,
) -> None:
    """Fetch the published checkpoint; every file is checked against its SHA-256."""
    with connect(url) as client:
        for path in download_files(client, client.alias(job).job if alias else job, directory):
            typer.echo(str(path))


app.command()(cli_compare.compare)
app.add_typer(cli_keys.app, name="keys")
app.add_typer(cli_schedules.app, name="schedules")
app.command()(cli_schedules.aliases)
app.command()(cli_local.serve)
app.command("import-gguf")(cli_local.import_gguf)
app.command()(cli_doctor.doctor)
app.command("slice")(cli_structure.slice_checkpoint)
app.command()(cli_convert.convert)
app.command("vocab")(cli_structure.cut_vocabulary)
app.command("apply-mask")(cli_masks.apply_mask)
app.command("compare-masks")(cli_masks.compare_masks)
app.command()(cli_sparse.pack)
app.command()(cli_sparse.unpack)
app.command()(cli_sparse.generate)
app.command()(cli_sparse.chat)
app.command("bench-speed")(cli_sparse.bench_speed)
app.command("serve-model")(cli_sparse.serve_model)
app.command()(cli_local.run)
app.command()(cli_reproduce.reproduce)
app.command()(cli_demo.demo)


def main() -> None:
    """Run the command; this is the entry point of the console script."""
    app(prog_name="secateur")


def _status(text: str | None) -> Status | None:
    for status in get_args(Status):
        if text == status:
            found: Status = status
            return found
    if text is None:
        return None
    raise SpecError(f"--status got {text!r}; allowed: {', '.join(STATUSES)}")


def _label(text: str) -> tuple[str, str]:
    key, separator, value = text.replace("=", ":", 1).partition(":")
    if not key or not separator or not value:
        raise SpecError(f"--label got {text!r}; write key:value, such as team:serving")
    return key, value


def _seconds(moment: datetime | None) -> int | None:
    return None if moment is None else int(moment.astimezone().timestamp())


if __name__ == "__main__":
    main()
