"""Keys that exist before anybody can ask for one: from the setting, in the state directory, and the first."""

import logging
import socket
from datetime import UTC, datetime
from pathlib import Path

from sqlalchemy import update
from sqlalchemy.orm import Session

from api.auth import key_prefix, new_key
from api.db.engine import Database
from api.db.models import ApiKey
from api.key_file import NAME, read_key, write_key
from api.service.keys import keys
from api.settings import LOOPBACK, Settings

log = logging.getLogger(__name__)


def prepare(settings: Settings, database: Database) -> None:
    """Make the keys that the settings ask for, at every start, and log how to get a first admin key."""
    if settings.auth == "none":
        if settings.host not in LOOPBACK:
            log.warning(
                "ANYONE who reaches %s:%d may do EVERYTHING here: SECATEUR_AUTH is none",
                *(settings.host, settings.port),
            )
        return
    if settings.admin_key is not None:
        ensure_setting_key(database, settings.admin_key.get_secret_value())
    if settings.embedded:
        ensure_local_key(database, settings.state_dir)
    with database.read() as session:
        if not keys.active_admins(session):
            log.warning("there is no admin key: `secateur keys bootstrap` or SECATEUR_ADMIN_KEY makes one")


def ensure_setting_key(database: Database, key: str) -> None:
    """Make SECATEUR_ADMIN_KEY an admin key, and revoke the one that it was before.

    A revoked key stays revoked, because processes with the old setting may still start in a rollout.
    """
    with database.write() as session:
        keys.take_turns(session)
        row = keys.find(session, key)
        if row is None:
            row = keys.add(session, key, name=keys.BOOTSTRAP, role="admin")
            log.info("SECATEUR_ADMIN_KEY is the admin key %s", row.prefix)
        elif row.role != "admin" or not keys.is_active(row):
            log.error(
                "SECATEUR_ADMIN_KEY is the key %s, which is revoked, expired or no admin's; give another",
                row.prefix,
            )
            return
        _revoke_named(session, keys.BOOTSTRAP, but=row)


def ensure_local_key(database: Database, state_dir: Path) -> None:
    """Write an admin key to the state directory, unless the key in it is active.

    If the database does not know that key, because the database was deleted, the key is stored again.
    """
    name = f"{keys.LOCAL}{socket.gethostname()}:{state_dir}"[:100]
    path = state_dir / NAME
    with database.write() as session:
        keys.take_turns(session)
        key = read_key(state_dir)
        row = keys.find(session, key) if key is not None else None
        if row is not None and row.role == "admin" and keys.is_active(row):
            path.chmod(0o600)
        elif row is None and key is not None and key_prefix(key) is not None:
            keys.add(session, key, name=name, role="admin")
            path.chmod(0o600)
        else:
            key = new_key()
            row = keys.add(session, key, name=name, role="admin")
            _revoke_named(session, name, but=row)
            write_key(state_dir, key)
    log.info("the admin key of this service is in %s", path)


def bootstrap(database: Database, *, name: str, force: bool) -> str | None:
    """Makes a first admin key. Returns None when there is one already, unless `force`."""
    keys.refuse_reserved(name)
    with database.write() as session:
        keys.take_turns(session)
        if keys.active_admins(session) and not force:
            return None
        key = new_key()
        keys.add(session, key, name=name, role="admin")
    return key


def _revoke_named(session: Session, name: str, *, but: ApiKey) -> None:
    earlier = (ApiKey.name == name, ApiKey.id != but.id, ApiKey.revoked_at.is_(None))
    session.execute(update(ApiKey).where(*earlier).values(revoked_at=datetime.now(UTC)))
