"""Calls of the CLI for tests."""

from typing import Any

from typer.testing import CliRunner, Result

from api.cli.main import app
from tests.api.bodies import body
from tests.api.conftest import KEY, RunningApi


def cli(*arguments: str, url: str | None = None, text: str | None = None, key: str | None = KEY) -> Result:
    """Run `secateur` with these arguments, and with a key in the environment."""
    beside = ["--url", url] if url is not None else []
    environment = {"SECATEUR_API_KEY": key}  # None removes the variable
    return CliRunner(env=environment).invoke(app, [*arguments, *beside], input=text, catch_exceptions=False)


def submit(service: RunningApi, **beside: Any) -> str:
    """Post a job, and return its id."""
    with service.secateur() as client:
        return client.submit(body(**beside)).id
