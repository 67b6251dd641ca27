"""Checks whether database, storage and Ray answer."""

from collections.abc import Callable

from sqlalchemy.exc import SQLAlchemyError

from api.service.context import Services
from api.submit import RayUnavailable
from pipeline.canonical import Frozen
from pipeline.errors import StorageError
from pipeline.storage import Prober


class Check(Frozen):
    """The check of one dependency of the service."""

    name: str
    ok: bool
    error: str | None = None


class Readiness(Frozen):
    """The answer to whether the service can accept and run jobs."""

    ready: bool
    checks: tuple[Check, ...]


def readiness(services: Services) -> Readiness:
    """Check the database, the storage and Ray, each by itself."""
    checks = (
        _check("database", services.database.ping),
        _check("storage", lambda: _probe(services)),
        _check("ray", services.ray.ping),
    )
    return Readiness(ready=all(check.ok for check in checks), checks=checks)


def _probe(services: Services) -> None:
    store = services.content.store
    if isinstance(store, Prober):
        store.probe()


def _check(name: str, ask: Callable[[], None]) -> Check:
    try:
        ask()
    except SQLAlchemyError as error:
        return Check(name=name, ok=False, error=type(error).__name__)  # its text may have the URL's password
    except (StorageError, RayUnavailable) as error:
        return Check(name=name, ok=False, error=str(error))
    return Check(name=name, ok=True)
