"""`secateur schedules` and `secateur aliases` manage standing orders and show aliases."""

from typing import Annotated

import typer

from api.cli.connect import Url, connect
from api.cli.schedule_view import (
    aliases_table,
    candidates_table,
    firings_table,
    schedule_details,
    schedules_table,
)
from api.cli.view import out, say_error, say_json
from api.client.client import DEFAULT_URL
from api.service.schedules.views import ScheduleView
from pipeline.request.spec_files import load_document

app = typer.Typer(
    help="Fire jobs by cron, or when a checkpoint arrives.", no_args_is_help=True, rich_markup_mode=None
)
Schedule = Annotated[str, typer.Argument(help="Name or id of a schedule.", show_default=False)]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command("list")
def list_schedules(url: Url = DEFAULT_URL, as_json: Json = False) -> None:
    """List schedules, newest first."""
    with connect(url) as client:
        found, unread = list(client.schedules()), list(client.unread_schedules())
    if as_json:
        say_json(found)
    elif found:
        out().print(schedules_table(found))
    elif not unread:
        out().print("no schedules")
    for one in unread:
        say_error(one.why)


@app.command()
def show(schedule: Schedule, url: Url = DEFAULT_URL, as_json: Json = False) -> None:
    """Show one schedule, with the checkpoints that its last look found."""
    with connect(url) as client:
        _say(client.schedule(schedule), as_json=as_json)


@app.command()
def create(
    file: Annotated[
        str, typer.Argument(help="YAML or JSON file with the body of POST /schedules; - is standard input.")
    ],
    url: Url = DEFAULT_URL,
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", help="Change a field, such as cron.timezone=Europe/Berlin; may be repeated."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Make a schedule."""
    document = load_document(file, overrides or [])
    with connect(url) as client:
        _say(client.create_schedule(document), as_json=as_json)


@app.command()
def pause(schedule: Schedule, url: Url = DEFAULT_URL) -> None:
    """Start no more jobs; running ones continue."""
    with connect(url) as client:
        typer.echo(f"{client.pause_schedule(schedule).name} is paused")


@app.command()
def resume(schedule: Schedule, url: Url = DEFAULT_URL) -> None:
    """Continue from now; firings that were missed in the pause are not made up for."""
    with connect(url) as client:
        typer.echo(f"{client.resume_schedule(schedule).name} continues")


@app.command()
def run(schedule: Schedule, url: Url = DEFAULT_URL, as_json: Json = False) -> None:
    """Fire now, for cron's model or for every complete checkpoint without a job."""
    with connect(url) as client:
        fired = client.run_schedule(schedule)
        found = () if fired else client.schedule(schedule).candidates
    if as_json:
        say_json(fired)
    elif fired:
        out().print(firings_table(fired))
    else:
        out().print("nothing new is complete")
        if found:
            out().print(candidates_table(found))


@app.command()
def delete(schedule: Schedule, url: Url = DEFAULT_URL) -> None:
    """Delete a schedule with its history; its jobs and its alias stay."""
    with connect(url) as client:
        client.delete_schedule(schedule)
    typer.echo(f"{schedule} is deleted")


@app.command()
def history(
    schedule: Schedule,
    url: Url = DEFAULT_URL,
    limit: Annotated[int, typer.Option(min=1, help="How many.")] = 20,
    as_json: Json = False,
) -> None:
    """List the firings of a schedule and their outcomes, newest first."""
    with connect(url) as client:
        found = client.firings(schedule, page=min(limit, 1000))
        listed = [firing for _, firing in zip(range(limit), found, strict=False)]
    if as_json:
        say_json(listed)
    elif listed:
        out().print(firings_table(listed))
    else:
        out().print("nothing was fired")


def aliases(
    name: Annotated[
        str | None, typer.Argument(help="Name of an alias; all if left out.", show_default=False)
    ] = None,
    url: Url = DEFAULT_URL,
    as_json: Json = False,
) -> None:
    """Show the published checkpoint that each alias points at."""
    with connect(url) as client:
        found = client.aliases() if name is None else (client.alias(name),)
    if as_json:
        say_json(found if name is None else found[0])
    elif found:
        out().print(aliases_table(found))
    else:
        out().print("no aliases")


def _say(schedule: ScheduleView, *, as_json: bool) -> None:
    if as_json:
        say_json(schedule)
    else:
        out().print(schedule_details(schedule))
