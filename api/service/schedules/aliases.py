"""Aliases: names of published checkpoints, in the database and, for inference servers, in storage."""

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import select
from sqlalchemy.orm import Session

from api.db.models import Alias
from api.errors import ApiError
from api.service.context import Services
from api.service.schedules.views import AliasView
from pipeline.artifacts.manifest import Manifest
from pipeline.artifacts.refs import ManifestRef
from pipeline.canonical import canonical_json
from pipeline.request.hints import suggestion


def pointer_key(name: str) -> str:
    """The storage key of an alias."""
    return f"aliases/{name}.json"


def move(
    services: Services,
    session: Session,
    name: str,
    *,
    job: str,
    manifest: ManifestRef,
    moved_by: str,
    now: datetime,
) -> None:
    """Point an alias at the checkpoint that a job has published.

    The row is locked while one PUT replaces the pointer in storage. If the process dies before the commit,
    the next one finds the firing undecided and does the same again.
    """
    row = session.scalar(select(Alias).where(Alias.name == name).with_for_update())
    if row is None:
        row = Alias(name=name)
        session.add(row)
    row.job, row.prefix = job, manifest.prefix
    row.manifest = manifest.file(manifest.path_of(Manifest)).digest
    row.moved_at, row.moved_by = now, moved_by
    session.flush()  # a second process that makes the same alias waits here, and not after its PUT
    services.content.store.put(pointer_key(name), [canonical_json(alias_view(row))])


def list_all(services: Services) -> Sequence[Alias]:
    """All aliases by name."""
    with services.database.read() as session:
        return session.scalars(select(Alias).order_by(Alias.name)).all()


def find(services: Services, name: str) -> Alias:
    """Find one alias. Raises ApiError 404."""
    rows = {row.name: row for row in list_all(services)}
    if name not in rows:
        hint = suggestion(name, sorted(rows))
        raise ApiError(404, "alias_not_found", f"there is no alias {name}{hint}", "name")
    return rows[name]


def alias_view(row: Alias) -> AliasView:
    """The document of an alias that users see and that lies in storage."""
    return AliasView(
        name=row.name,
        job=row.job,
        prefix=row.prefix,
        manifest=row.manifest,
        moved_at=int(row.moved_at.timestamp()),
        moved_by=row.moved_by,
    )
