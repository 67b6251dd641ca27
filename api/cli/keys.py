"""`secateur keys` manages the API keys of a service, and makes the first one of a new installation."""

import contextlib
from collections.abc import Iterable
from datetime import datetime
from typing import Annotated

import typer
from pydantic import ValidationError
from rich.console import Console
from rich.table import Table
from rich.text import Text

from api.auth import ROLES
from api.cli.connect import Url, connect
from api.cli.local import settings_from
from api.cli.view import out, say_json
from api.client.client import DEFAULT_URL, ClientError
from api.service.keys.views import KeyRequest, KeyState, KeyView
from pipeline.request.hints import suggestion
from pipeline.request.spec_files import SpecError

STATE_STYLE: dict[KeyState, str] = {"active": "green", "expired": "yellow", "revoked": "dim"}

app = typer.Typer(help="Make, list and revoke API keys.", no_args_is_help=True, rich_markup_mode=None)
Name = Annotated[str, typer.Option(help="The owner or the purpose of the key.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command()
def create(
    name: Name,
    role: Annotated[
        str, typer.Option(help=f"One of {', '.join(ROLES)}; each includes the rights of those before.")
    ],
    expires_days: Annotated[int | None, typer.Option(help="Left out: it never expires.")] = None,
    url: Url = DEFAULT_URL,
    as_json: Json = False,
) -> None:
    """Make a key and print it. It is not shown again."""
    request = _request(name, role, expires_days)
    with connect(url) as client:
        made = client.create_key(request)
    if as_json:
        say_json(made)
        return
    typer.echo(made.key)
    _aside(f"keep it: it is not shown again; secateur keys revoke {made.id} ends it")


@app.command("list")
def list_keys(
    url: Url = DEFAULT_URL,
    every: Annotated[bool, typer.Option("--all", help="Expired and revoked ones, too.")] = False,
    as_json: Json = False,
) -> None:
    """List keys, newest first, without their secrets."""
    with connect(url) as client:
        found = [key for key in client.list_keys() if every or key.state == "active"]
    if as_json:
        say_json(found)
    else:
        out().print(_table(found))


@app.command()
def revoke(
    key: Annotated[str, typer.Argument(help="Id of a key, or its beginning: sec_...", show_default=False)],
    url: Url = DEFAULT_URL,
) -> None:
    """Revoke a key, for good and at once."""
    with connect(url) as client:
        revoked = client.revoke_key(_id_of(client.list_keys(), key))
    typer.echo(f"{revoked.id} {revoked.prefix} ({revoked.name}) {revoked.state}")


@app.command()
def whoami(url: Url = DEFAULT_URL, as_json: Json = False) -> None:
    """Print the name and the role of the key in use."""
    with connect(url) as client:
        caller = client.whoami()
    if as_json:
        say_json(caller)
    else:
        typer.echo(f"{caller.name}: {caller.role}" + (f", {caller.prefix}..." if caller.prefix else ""))


@app.command()
def bootstrap(
    name: Name = "admin",
    force: Annotated[bool, typer.Option("--force", help="Make one even if there are admin keys.")] = False,
) -> None:
    """Make the first admin key in the database of SECATEUR_DATABASE_URL, without a service, and print it."""
    request = _request(name, "admin", None)
    from sqlalchemy.exc import SQLAlchemyError  # the other commands need no database

    from api.db.engine import Database
    from api.db.migrate import upgrade
    from api.errors import ApiError
    from api.service.keys import first_keys

    try:
        with contextlib.closing(Database(settings_from().database_url)) as database:
            upgrade(database)
            key = first_keys.bootstrap(database, name=request.name, force=force)
    except SQLAlchemyError as error:
        raise SpecError(f"SECATEUR_DATABASE_URL: the database refuses ({type(error).__name__})") from None
    except ValueError as error:
        raise SpecError(str(error)) from None
    except ApiError as error:
        raise SpecError(error.message, error.param) from None
    if key is None:
        raise ClientError(
            "there is an admin key already: make others with secateur keys create; is it lost? use --force",
            code="admin_key_exists",
        )
    typer.echo(key)
    _aside("keep it: it is not shown again")


def _request(name: str, role: str, expires_days: int | None) -> KeyRequest:
    try:
        return KeyRequest.model_validate({"name": name, "role": role, "expires_days": expires_days})
    except ValidationError as error:
        first = error.errors()[0]
        if first["loc"] == ("role",):
            raise SpecError(
                f"--role got {role!r}{suggestion(role, ROLES)}; allowed: {', '.join(ROLES)}"
            ) from None
        option = str(first["loc"][0]).replace("_", "-")
        raise SpecError(f"--{option} got {first['input']!r}: {first['msg']}") from None


def _id_of(keys: Iterable[KeyView], given: str) -> str:
    """The id of the key with a prefix. A whole key is recognised by its beginning, and is never sent."""
    beginning = "_".join(given.split("_")[:2])
    found = [key.id for key in keys if given == key.id or beginning == key.prefix]
    if len(found) != 1:
        shown = given if given.startswith("key-") else beginning
        problem = "several keys begin" if found else "no key begins"
        raise SpecError(f"{problem} with {shown!r}; secateur keys list --all shows their ids")
    return found[0]


def _table(keys: Iterable[KeyView]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("id", "key", "role", "name", "state", "created", "expires", "last used"):
        table.add_column(name, overflow="fold")
    for key in keys:
        table.add_row(
            Text(key.id, no_wrap=True),
            Text(f"{key.prefix}...", no_wrap=True),
            Text(key.role),
            Text(key.name),
            Text(key.state, style=STATE_STYLE[key.state]),
            *(
                Text(_day(moment), no_wrap=True)
                for moment in (key.created_at, key.expires_at, key.last_used_at)
            ),
        )
    return table


def _day(moment: int | None) -> str:
    return "" if moment is None else datetime.fromtimestamp(moment).strftime("%Y-%m-%d %H:%M")


def _aside(text: str) -> None:
    """Print a note on standard error, because programs read standard output."""
    Console(stderr=True, highlight=False).print(Text(text, style="dim"), soft_wrap=True)
