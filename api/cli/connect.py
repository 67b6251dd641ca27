"""Connects the CLI to a service: the address, and the key."""

from typing import Annotated

import httpx
import typer

from api.client.client import SecateurClient
from api.key_file import read_key
from api.settings import LOOPBACK, ClientSettings

REMEDY = (
    "set SECATEUR_API_KEY (an admin makes keys: secateur keys create), or SECATEUR_STATE_DIR to the state "
    "directory of a service on this machine, which has one in api-key"
)

Url = Annotated[
    str, typer.Option("--url", envvar="SECATEUR_URL", help="Address of the service.", show_default=True)
]


def connect(url: str) -> SecateurClient:
    """A client with SECATEUR_API_KEY, or else with the key in the state directory of a local service."""
    given = ClientSettings()
    if given.api_key is not None:
        return SecateurClient(url, api_key=given.api_key.get_secret_value())
    return SecateurClient(url, api_key=read_key(given.state_dir) if _is_local(url) else None)


def _is_local(url: str) -> bool:
    try:
        return httpx.URL(url).host in LOOPBACK
    except httpx.InvalidURL:
        return False  # the client reports the error
