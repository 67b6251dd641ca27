"""The tables. Times are UTC; models of pipeline are stored as JSON."""

from datetime import UTC, datetime

from sqlalchemy import (
    BigInteger,
    DateTime,
    Dialect,
    ForeignKey,
    Index,
    Integer,
    String,
    Text,
    TypeDecorator,
    UniqueConstraint,
    text,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

NAMING = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "fk": "fk_%(table_name)s_%(column_0_N_name)s",
    "pk": "pk_%(table_name)s",
}


QUEUED = text("status = 'queued'")  # of a partial index; queries say it in the same words


class UtcDateTime(TypeDecorator[datetime]):
    """A point in time; SQLite forgets the zone, so it is put back."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Convert a time to UTC before it is stored."""
        return value.astimezone(UTC) if value is not None else None

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Mark a stored time as UTC, if the database has lost the zone."""
        if value is None or value.tzinfo is not None:
            return value
        return value.replace(tzinfo=UTC)


class Base(DeclarativeBase):
    """Base of all tables."""


Base.metadata.naming_convention = NAMING


class Job(Base):
    """One submitted request. `state` is the fold of its events, written with them in one transaction.

    `live` says that an attempt has begun and not ended. `tries` counts failed attempts since a user queued
    the job.
    The lease names the API process that advances the job. `max_runtime` is in seconds, from the first
    submission to Ray, and `deadline_at` is when they are over.
    """

    __tablename__ = "jobs"
    __table_args__ = (
        Index(None, "status", "created_at"),
        Index("ix_jobs_status_id", "status", "id"),
        Index("ix_jobs_id_model", "id", "model"),  # a search reads it backwards, and no rows
        Index("ix_jobs_live", "id", postgresql_where=text("live"), sqlite_where=text("live = 1")),
        Index("ix_jobs_queued", "priority", "id", postgresql_where=QUEUED, sqlite_where=QUEUED),
    )

    id: Mapped[str] = mapped_column(String(24), primary_key=True)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, index=True)
    request: Mapped[str] = mapped_column(Text)
    pins: Mapped[str] = mapped_column(Text, deferred=True)  # it has the model's config.json
    model: Mapped[str] = mapped_column(Text)
    priority: Mapped[int]
    idempotency_key: Mapped[str | None] = mapped_column(String(255), unique=True)
    body_digest: Mapped[str] = mapped_column(String(64))
    reproduces: Mapped[str | None] = mapped_column(String(24))
    status: Mapped[str] = mapped_column(String(16))
    state: Mapped[str] = mapped_column(Text)
    attempt: Mapped[int] = mapped_column(default=0)
    tries: Mapped[int] = mapped_column(default=0)
    live: Mapped[bool] = mapped_column(default=False)
    not_before: Mapped[datetime | None] = mapped_column(UtcDateTime)
    max_runtime: Mapped[int | None]
    deadline_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    lease_owner: Mapped[str | None] = mapped_column(String(100))
    lease_until: Mapped[datetime | None] = mapped_column(UtcDateTime)


class JobLabel(Base):
    """One label of a job, for filters."""

    __tablename__ = "job_labels"
    __table_args__ = (Index(None, "key", "value"),)

    job: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    key: Mapped[str] = mapped_column(String(63), primary_key=True)
    value: Mapped[str] = mapped_column(String(63))


class Attempt(Base):
    """One Ray job. `accepted` is the highest sequence number of its driver's events, `reason` its failure.
    `heard_at`: when the driver said anything last, null until its first heartbeat."""

    __tablename__ = "attempts"

    job: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    submission_id: Mapped[str] = mapped_column(String(64), unique=True)
    token_digest: Mapped[str] = mapped_column(String(64))
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)
    submitted_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    ended_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    heard_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    accepted: Mapped[int] = mapped_column(default=0)
    reason: Mapped[str | None] = mapped_column(Text)
    log_stored: Mapped[bool] = mapped_column(default=False)


class EventRow(Base):
    """One event. `sequence` is the number that the driver gave it, null for events of the API itself."""

    __tablename__ = "events"
    __table_args__ = (
        UniqueConstraint("job", "attempt", "sequence"),
        Index(None, "job", "id"),
        Index("ix_events_job_type_id", "job", "type", "id"),
        {"sqlite_autoincrement": True},
    )

    id: Mapped[int] = mapped_column(BigInteger().with_variant(Integer, "sqlite"), primary_key=True)
    job: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"))
    attempt: Mapped[int]
    sequence: Mapped[int | None]
    at: Mapped[datetime] = mapped_column(UtcDateTime)
    type: Mapped[str] = mapped_column(String(32))
    body: Mapped[str] = mapped_column(Text)


class Schedule(Base):
    """A standing order. `definition` is its ScheduleRequest. The lease names the API process that handles it.

    `next_at` is the next moment of cron; null without cron, and while the schedule is paused.
    """

    __tablename__ = "schedules"

    id: Mapped[str] = mapped_column(String(26), primary_key=True)
    name: Mapped[str] = mapped_column(String(63), unique=True)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)
    updated_at: Mapped[datetime] = mapped_column(UtcDateTime)
    definition: Mapped[str] = mapped_column(Text)
    paused: Mapped[bool] = mapped_column(default=False)
    next_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    looked_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    error: Mapped[str | None] = mapped_column(Text)
    lease_owner: Mapped[str | None] = mapped_column(String(100))
    lease_until: Mapped[datetime | None] = mapped_column(UtcDateTime)


class Firing(Base):
    """One firing of a schedule, also when it was missed or skipped. `due_at` is the moment of cron, `digest`
    the checkpoint's.

    Each is unique in a schedule, so that two API processes never fire twice. `gates` holds verdicts as JSON.
    """

    __tablename__ = "firings"
    __table_args__ = (
        UniqueConstraint("schedule", "due_at"),
        UniqueConstraint("schedule", "digest"),
        Index(None, "schedule", "id"),
        Index(None, "outcome"),
        {"sqlite_autoincrement": True},
    )

    id: Mapped[int] = mapped_column(BigInteger().with_variant(Integer, "sqlite"), primary_key=True)
    schedule: Mapped[str] = mapped_column(ForeignKey("schedules.id", ondelete="CASCADE"))
    cause: Mapped[str] = mapped_column(String(16))
    at: Mapped[datetime] = mapped_column(UtcDateTime)
    due_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    source: Mapped[str | None] = mapped_column(Text)
    digest: Mapped[str | None] = mapped_column(String(64))
    job: Mapped[str | None] = mapped_column(ForeignKey("jobs.id"), unique=True)
    outcome: Mapped[str] = mapped_column(String(16))
    reason: Mapped[str | None] = mapped_column(Text)
    gates: Mapped[str | None] = mapped_column(Text)
    decided_at: Mapped[datetime | None] = mapped_column(UtcDateTime)


class Sighting(Base):
    """A checkpoint below a schedule's prefix as last seen: since when it is unchanged, and what it lacks.

    `listing` is the digest of its directory's listing; as long as it stays, no file is read again.
    """

    __tablename__ = "sightings"

    schedule: Mapped[str] = mapped_column(ForeignKey("schedules.id", ondelete="CASCADE"), primary_key=True)
    source: Mapped[str] = mapped_column(String(1024), primary_key=True)
    listing: Mapped[str] = mapped_column(String(64))
    digest: Mapped[str | None] = mapped_column(String(64))
    since: Mapped[datetime] = mapped_column(UtcDateTime)
    seen_at: Mapped[datetime] = mapped_column(UtcDateTime)
    state: Mapped[str] = mapped_column(String(16))
    reason: Mapped[str | None] = mapped_column(Text)


class Alias(Base):
    """A name that points at the published checkpoint of a job; storage has a copy for serving engines."""

    __tablename__ = "aliases"

    name: Mapped[str] = mapped_column(String(63), primary_key=True)
    job: Mapped[str] = mapped_column(ForeignKey("jobs.id"))
    prefix: Mapped[str] = mapped_column(Text)
    manifest: Mapped[str] = mapped_column(String(64))
    moved_at: Mapped[datetime] = mapped_column(UtcDateTime)
    moved_by: Mapped[str] = mapped_column(String(100))


class SchemaCompatibility(Base):
    """One row: the oldest schema whose version of Secateur may use this database (api/db/migrate.py)."""

    __tablename__ = "schema_compatibility"

    usable_from: Mapped[str] = mapped_column(String(8), primary_key=True)


class ApiKey(Base):
    """A key of a person or a program. Only its SHA-256 is stored; it is looked up and listed by `prefix`."""

    __tablename__ = "api_keys"

    id: Mapped[str] = mapped_column(String(24), primary_key=True)
    name: Mapped[str] = mapped_column(String(100))
    role: Mapped[str] = mapped_column(String(16))
    prefix: Mapped[str] = mapped_column(String(16), index=True)
    digest: Mapped[str] = mapped_column(String(64), unique=True)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)
    expires_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    last_used_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    revoked_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
