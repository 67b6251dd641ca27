"""`secateur reproduce`: does the work of a job again without anything stored, and compares what comes out."""

from pathlib import Path
from typing import Annotated

import typer

from api.cli.connect import Url, connect
from api.cli.job import say_links, watched
from api.cli.local import run_driver
from api.cli.view import out, say_error
from api.client.client import DEFAULT_URL
from pipeline.job.reproduction import Reproduction
from pipeline.report.sweep import read_any_report

DIFFERS = 3


def reproduce(
    job: Annotated[
        str | None, typer.Argument(help="Id of a job; of a run in --storage, if that has several.")
    ] = None,
    url: Url = DEFAULT_URL,
    storage: Annotated[
        Path | None, typer.Option(help="Directory of `secateur run`, to reproduce a run without the service.")
    ] = None,
    local: Annotated[
        bool, typer.Option("--local", help="With --storage: in one process, without Ray.")
    ] = False,
    watch: Annotated[bool, typer.Option(help="Stay until the verdict.")] = True,
) -> None:
    """Do the work of a job again from its pinned sources, and compare. Exit code: 0 identical, 3 they differ,
    1 the work failed."""
    if storage is not None:
        storage = storage.absolute()
        which = [job] if job is not None else []
        document = run_driver(["--reproduce", *which], storage, storage.parent / "run.log", local=local)
        raise typer.Exit(_said(document.data.reproduction))
    if job is None:
        raise typer.BadParameter("name a job, or give the --storage of a run")
    with connect(url) as client:
        again = client.reproduce(job)
        say_links(again, client.url)
        if not watch:
            return
        code = watched(client, again.id)
        if code == 0:
            code = _said(read_any_report(client.report_json(again.id)).data.reproduction)
    raise typer.Exit(code)


def _said(found: Reproduction | None) -> int:
    """Print the verdict, and return the exit code."""
    assert found is not None, "a job that reproduces another compares itself"
    if found.identical:
        out().print(str(found), soft_wrap=True)
        return 0
    say_error(str(found))
    return DIFFERS
