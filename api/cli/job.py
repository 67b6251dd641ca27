"""A job of the service on the terminal: its links, its progress and its result."""

from collections.abc import Mapping

import typer

from api.cli.failure import blamed
from api.cli.view import final_table, out, say_error, sweep_table, took_seconds
from api.cli.watch import follow_job
from api.client.client import SecateurClient
from api.service.jobs.views import JobView
from pipeline.report.sweep import SweepDocument, read_any_report

EXIT_CODES: Mapping[str, int] = {"succeeded": 0, "failed": 1, "cancelled": 130}


def watched(client: SecateurClient, job_id: str) -> int:
    """Watches a job to its end, and returns the exit code."""
    console = out()
    try:
        job = follow_job(client, job_id, console)
    except KeyboardInterrupt:
        console.print(f"the job continues; secateur watch {job_id} --url {client.url} watches it again")
        return 130
    if job.status == "succeeded":
        say_result(client, job)
    elif job.status == "failed":
        assert job.error is not None, "a failed job says why"
        where = f"at {job.error.node}: " if job.error.node else ""
        say_error(f"{where}{blamed(job.error.message, job.error.blame)}", job.error.param)
        console.print(
            f"secateur logs {job_id} shows the log, secateur retry {job_id} continues from what is stored"
        )
    return EXIT_CODES.get(job.status, 1)


def say_result(client: SecateurClient, job: JobView) -> None:
    """Print the figures of a job that succeeded."""
    document = read_any_report(client.report_json(job.id))
    if isinstance(document, SweepDocument):
        report = f"{client.url}{job.links.report}"
        out().print(sweep_table(document, seconds=took_seconds(job), report=report))
        return
    table = final_table(
        document.summary,
        seconds=took_seconds(job),
        report=f"{client.url}{job.links.report}",
        checkpoint=f"secateur download {job.id} DIRECTORY  ({document.data.manifest_prefix})",
    )
    out().print(table)


def say_links(job: JobView, url: str) -> None:
    """Print the id of a job on a line of its own, then its addresses."""
    typer.echo(job.id)
    typer.echo(f"  {job.status}; secateur watch {job.id} follows it")
    typer.echo(f"  {url}{job.links.self}")
    typer.echo(f"  {url}{job.links.report}")
