"""API keys: making, listing, revoking and checking them."""

import logging
import re
from collections.abc import Collection, Sequence
from datetime import UTC, datetime, timedelta

from sqlalchemy import ColumnElement, and_, or_, select, text, update
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from api.auth import ROLES, Caller, Role, key_prefix, new_key, token_digest, token_matches
from api.db.engine import Database
from api.db.models import ApiKey
from api.errors import ApiError
from api.service.ids import KEY_ID_PATTERN, new_id
from api.service.keys.views import KeyRequest, KeyState, KeyView, NewKeyView

log = logging.getLogger(__name__)
KEYS_LOCK = 7_235_112_991  # arbitrary, as long as nothing else takes the same advisory lock
USE_IS_NOTED_EVERY = timedelta(minutes=1)
BOOTSTRAP = "bootstrap"  # the name of the key from SECATEUR_ADMIN_KEY
LOCAL = "local "  # the beginning of the name of a key in a state directory


def check(database: Database, key: str) -> Caller:
    """Returns the caller who presents this key. Raises ApiError 401 unless the key is active."""
    prefix, now = key_prefix(key), datetime.now(UTC)
    if prefix is None:
        log.warning("refused a text that cannot be a key")
        raise ApiError(
            401, "key_refused", "this is no key; one looks like sec_..., or is what SECATEUR_ADMIN_KEY says"
        )
    with database.read() as session:
        rows = session.scalars(select(ApiKey).where(ApiKey.prefix == prefix)).all()
    row = next((row for row in rows if token_matches(key, row.digest)), None)
    state = _state(row, now) if row is not None else "unknown"
    if row is None or state != "active":
        log.warning("refused the key %s: %s", prefix, state)
        code = "key_refused" if row is None else f"key_{state}"
        raise ApiError(401, code, f"the key {prefix}... is {state} here; ask an admin for another")
    _note_use(database, row, now)
    return Caller(row.name, _role(row), row.prefix)


def create(database: Database, request: KeyRequest) -> NewKeyView:
    """Makes a key and returns it with its secret. Raises ApiError 422 for a reserved name."""
    refuse_reserved(request.name)
    key, days = new_key(), request.expires_days
    now = datetime.now(UTC)
    expires_at = now + timedelta(days=days) if days is not None else None
    with database.write() as session:
        row = add(session, key, name=request.name, role=request.role, expires_at=expires_at)
        view = key_view(row, now)
    return NewKeyView(**view.model_dump(), key=key)


def list_all(database: Database) -> tuple[KeyView, ...]:
    """All keys, expired and revoked ones too, newest first."""
    with database.read() as session:
        rows = session.scalars(select(ApiKey).order_by(ApiKey.id.desc())).all()
    now = datetime.now(UTC)
    return tuple(key_view(row, now) for row in rows)


def revoke(database: Database, key_id: str) -> KeyView:
    """Revoke a key for good; repeats are harmless. Raises ApiError 404, and 409 for the last admin key."""
    now = datetime.now(UTC)
    with database.write() as session:
        take_turns(session)
        row = session.get(ApiKey, key_id) if re.fullmatch(KEY_ID_PATTERN, key_id) else None
        if row is None:
            raise ApiError(404, "key_not_found", f"there is no key {key_id}; GET /keys lists them", "id")
        if row.revoked_at is None:
            if row.role == "admin" and [admin.id for admin in active_admins(session)] == [row.id]:
                raise ApiError(
                    409,
                    "last_admin_key",
                    f"{row.prefix}... is the last admin key; make another one first (role: admin), "
                    "or nobody could make keys any more",
                    "id",
                )
            row.revoked_at = now
        return key_view(row, now)


def refuse_reserved(name: str) -> None:
    """Raise ApiError 422 for a name of the keys that the service itself makes."""
    if name == BOOTSTRAP or name.startswith(LOCAL):
        raise ApiError(
            422, "name_reserved", f"the service itself makes keys named {name!r}; choose another", "name"
        )


def take_turns(session: Session) -> None:
    """Take a lock until the end of the transaction, so that no other one changes admin keys meanwhile."""
    if session.get_bind().dialect.name == "postgresql":  # SQLite's writers take turns anyway
        session.execute(text("SELECT pg_advisory_xact_lock(:n)"), {"n": KEYS_LOCK})


def active_admins(session: Session) -> Sequence[ApiKey]:
    """The admin keys that are neither revoked nor expired."""
    return session.scalars(select(ApiKey).where(ApiKey.role == "admin", _is_active())).all()


def add(session: Session, key: str, *, name: str, role: Role, expires_at: datetime | None = None) -> ApiKey:
    """Store the digest, the prefix and the description of a key."""
    prefix = key_prefix(key)
    assert prefix is not None, "what cannot be sent is refused before"
    row = ApiKey(
        id=new_id("key"),
        name=name,
        role=role,
        prefix=prefix,
        digest=token_digest(key),
        created_at=datetime.now(UTC),
        expires_at=expires_at,
    )
    session.add(row)
    session.flush()
    return row


def find(session: Session, key: str) -> ApiKey | None:
    """The row of a key in any state; None for an unknown key."""
    return session.scalar(select(ApiKey).where(ApiKey.digest == token_digest(key)))


def active_among(session: Session, prefixes: Collection[str]) -> frozenset[str]:
    """Those of the prefixes that belong to a key which is neither revoked nor expired."""
    if not prefixes:
        return frozenset()
    return frozenset(session.scalars(select(ApiKey.prefix).where(ApiKey.prefix.in_(prefixes), _is_active())))


def is_active(row: ApiKey) -> bool:
    """Tells whether a key is neither revoked nor expired."""
    return _state(row, datetime.now(UTC)) == "active"


def key_view(row: ApiKey, now: datetime) -> KeyView:
    """A key as users see it."""
    return KeyView(
        id=row.id,
        name=row.name,
        role=_role(row),
        prefix=row.prefix,
        state=_state(row, now),
        created_at=int(row.created_at.timestamp()),
        expires_at=_whole(row.expires_at),
        last_used_at=_whole(row.last_used_at),
        revoked_at=_whole(row.revoked_at),
    )


def _state(row: ApiKey, now: datetime) -> KeyState:
    if row.revoked_at is not None:
        return "revoked"
    return "expired" if row.expires_at is not None and row.expires_at <= now else "active"


def _is_active() -> ColumnElement[bool]:
    good = or_(ApiKey.expires_at.is_(None), ApiKey.expires_at > datetime.now(UTC))
    return and_(ApiKey.revoked_at.is_(None), good)


def _note_use(database: Database, row: ApiKey, now: datetime) -> None:
    """Store when a key was used, at most once a minute. A failed write does not refuse the caller."""
    before = now - USE_IS_NOTED_EVERY
    if row.last_used_at is not None and row.last_used_at > before:
        return
    stale = or_(ApiKey.last_used_at.is_(None), ApiKey.last_used_at <= before)
    try:
        with database.write() as session:
            session.execute(update(ApiKey).where(ApiKey.id == row.id, stale).values(last_used_at=now))
    except SQLAlchemyError as error:
        log.warning("when %s was used could not be noted: %s", row.prefix, type(error).__name__)


def _role(row: ApiKey) -> Role:
    return next(role for role in ROLES if role == row.role)


def _whole(moment: datetime | None) -> int | None:
    return int(moment.timestamp()) if moment is not None else None
