"""The CLI as a test calls it."""

from typing import Any

from typer.testing import CliRunner, Result

from api.cli import app
from api.client import SecateurClient
from tests.api.conftest import RunningApi
from tests.api.pins import body


def cli(*arguments: str, url: str | None = None, text: str | None = None) -> Result:
    """Run `secateur` with these arguments."""
    beside = ["--url", url] if url is not None else []
    return CliRunner().invoke(app, [*arguments, *beside], input=text, catch_exceptions=False)


def submit(service: RunningApi, **beside: Any) -> str:
    """Post a job; its id."""
    with SecateurClient(service.url) as client:
        return client.submit(body(**beside)).id
