"""The moments of a cron expression in a time zone, with daylight saving time handled as in Debian's cron.

An expression that names its minutes and hours (`30 2 * * *`) fires once a day: in spring, when 02:30 does not
exist, right after the gap, and in autumn, when it occurs twice, the first time. An expression with a star in
either field (`*/15 * * * *`) follows elapsed time, so that its moments keep their distance.
"""

import difflib
import zoneinfo
from datetime import UTC, datetime, timedelta
from functools import cache

from cronsim import CronSim, CronSimError
from pydantic import Field, field_validator, model_validator

from pipeline.canonical import Frozen

FIELDS = "minute hour day-of-month month day-of-week"
EXAMPLE = "such as `30 2 * * *` for half past two every night"
BEFORE_ALL = datetime(2024, 1, 1, tzinfo=UTC)
# Windows for the search for the latest moment: frequent expressions have one in the small windows.
LOOK_BACK = tuple(timedelta(hours=hours) for hours in (1, 24, 32 * 24, 400 * 24, 30 * 400 * 24))


class Cron(Frozen):
    """The moments at which a schedule fires: five fields, read in a time zone."""

    expression: str = Field(max_length=100, examples=["30 2 * * *"], description=f"Five fields: {FIELDS}.")
    timezone: str = Field(default="UTC", max_length=64, examples=["Europe/Berlin"])

    @field_validator("expression")
    @classmethod
    def _five_fields(cls, value: str) -> str:
        parts = value.split()
        if len(parts) != 5:
            raise ValueError(f"got {len(parts)} fields; write five, {FIELDS}, {EXAMPLE}")
        try:
            CronSim(value, BEFORE_ALL)
        except (CronSimError, ValueError) as error:
            raise ValueError(f"got {value!r}: {error}; the fields are {FIELDS}, {EXAMPLE}") from None
        return " ".join(parts)

    @field_validator("timezone")
    @classmethod
    def _known_zone(cls, value: str) -> str:
        if value not in _zones():
            folded = {zone.casefold(): zone for zone in _zones()}
            near = difflib.get_close_matches(value.casefold(), sorted(folded), n=1)
            hint = f"; did you mean {folded[near[0]]!r}?" if near else ""
            raise ValueError(f"got {value!r}{hint}; write an IANA time zone, such as Europe/Berlin or UTC")
        return value

    @model_validator(mode="after")
    def _comes_at_all(self) -> "Cron":
        if next_moment(self.expression, self.timezone, BEFORE_ALL) is None:
            raise ValueError(f"{self.expression!r} never comes: no month has such a day")
        return self


def next_moment(expression: str, timezone: str, after: datetime) -> datetime | None:
    """Returns the first moment later than `after`, in UTC; None when there is none within fifty years."""
    moments = CronSim(expression, after.astimezone(zoneinfo.ZoneInfo(timezone)))
    for moment in moments:
        found = moment.astimezone(UTC)
        if found > after:  # in autumn the same wall-clock time may have occurred before
            return found
    return None


def latest_moment(expression: str, timezone: str, *, until: datetime) -> datetime | None:
    """Returns the last moment that is not later than `until`, in UTC; None when there was none in 30
    years."""
    for window in LOOK_BACK:
        latest = None
        moment = next_moment(expression, timezone, until - window)
        while moment is not None and moment <= until:
            latest = moment
            moment = next_moment(expression, timezone, moment)
        if latest is not None:
            return latest
    return None


@cache
def _zones() -> frozenset[str]:
    return frozenset(zoneinfo.available_timezones())
