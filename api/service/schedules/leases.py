"""Leases say which API process handles a schedule. They only spare work: the transactions of firings ensure
that nothing fires twice."""

from collections.abc import Sequence
from datetime import timedelta

from sqlalchemy import or_, select, update

from api.db.engine import Database
from api.db.models import Schedule
from api.service.context import Services


def claim(services: Services, owner: str) -> Sequence[Schedule]:
    """Returns the schedules under our leases. Our leases are renewed after half of their time, and those of
    others are taken when they ran out. A round with nothing to renew or take writes nothing."""
    now, length = services.now(), timedelta(seconds=services.settings.lease_seconds)
    ours = Schedule.lease_owner == owner
    free = or_(Schedule.lease_owner.is_(None), Schedule.lease_until < now)
    wanted = or_(free, ours & (Schedule.lease_until < now + length / 2))
    with services.database.read() as session:
        idle = session.scalar(select(Schedule.id).where(wanted).limit(1)) is None
    if not idle:
        with services.database.write() as session:
            query = select(Schedule.id).where(or_(free, ours)).order_by(Schedule.id)  # locks in one order
            found = session.scalars(query.with_for_update(skip_locked=True)).all()
            values = {"lease_owner": owner, "lease_until": now + length}
            session.execute(update(Schedule).where(Schedule.id.in_(found)).values(values))
    with services.database.read() as session:
        return session.scalars(select(Schedule).where(ours).order_by(Schedule.id)).all()


def release(database: Database, owner: str) -> None:
    """Give up all leases of an owner, so that others need not wait for them to run out."""
    with database.write() as session:
        query = select(Schedule.id).where(Schedule.lease_owner == owner).order_by(Schedule.id)
        found = session.scalars(query.with_for_update()).all()
        nobody = {"lease_owner": None, "lease_until": None}
        session.execute(update(Schedule).where(Schedule.id.in_(found)).values(nobody))


def owners(database: Database) -> Sequence[str]:
    """The owners of leases."""
    with database.read() as session:
        query = select(Schedule.lease_owner).where(Schedule.lease_owner.is_not(None)).distinct()
        return [owner for owner in session.scalars(query) if owner is not None]


def tell(database: Database, schedule_id: str, error: str | None) -> None:
    """Store the error that keeps a schedule from working; None when there is none."""
    with database.write() as session:
        session.execute(update(Schedule).where(Schedule.id == schedule_id).values(error=error))
