"""Moments of cron: strictly growing, once each, and right on the two odd days of a year."""

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from pipeline.cron import Cron, latest_moment, next_moment

BERLIN, NEW_YORK = "Europe/Berlin", "America/New_York"
ZONES = (
    "UTC",
    BERLIN,
    NEW_YORK,
    "Australia/Lord_Howe",
    "America/Sao_Paulo",
    "Africa/Cairo",
    "Asia/Kathmandu",
)
EXPRESSIONS = (
    "30 2 * * *",
    "0 0 * * *",
    "*/15 * * * *",
    "0 * * * *",
    "5,35 1-3 * * *",
    "0 3 * * SUN",
    "59 23 28-31 * *",
    "0 12 1 */2 *",
)


def moments(expression: str, timezone: str, after: str, count: int) -> list[str]:
    """The next moments in local time, as ISO text without the date."""
    found = []
    moment = datetime.fromisoformat(after).astimezone(UTC)
    for _ in range(count):
        following = next_moment(expression, timezone, moment)
        assert following is not None
        moment = following
        found.append(moment.astimezone(ZoneInfo(timezone)).strftime("%d %H:%M%z"))
    return found


def test_a_nightly_job_in_the_night_without_half_past_two() -> None:
    assert moments("30 2 * * *", BERLIN, "2026-03-28T00:00+01:00", 3) == [
        "28 02:30+0100",
        "29 03:00+0200",  # right after the gap
        "30 02:30+0200",
    ]


def test_a_nightly_job_in_the_night_with_two_of_them() -> None:
    assert moments("30 2 * * *", BERLIN, "2026-10-24T00:00+02:00", 3) == [
        "24 02:30+0200",
        "25 02:30+0200",  # the first one
        "26 02:30+0100",
    ]
    between = "2026-10-25T02:15+01:00"  # in the second hour from two to three
    assert moments("30 2 * * *", BERLIN, between, 1) == ["26 02:30+0100"]


def test_nights_in_new_york() -> None:
    assert moments("30 2 * * *", NEW_YORK, "2026-03-08T00:00-05:00", 2) == ["08 03:00-0400", "09 02:30-0400"]
    assert moments("30 1 * * *", NEW_YORK, "2026-11-01T00:00-04:00", 2) == ["01 01:30-0400", "02 01:30-0500"]


@pytest.mark.parametrize(
    ("timezone", "day", "quarters"),
    [
        (BERLIN, "2026-03-29", 92),
        (BERLIN, "2026-10-25", 100),
        (NEW_YORK, "2026-03-08", 92),
        ("UTC", "2026-03-29", 96),
    ],
)
def test_every_quarter_of_an_hour_keeps_its_distance(timezone: str, day: str, quarters: int) -> None:
    zone = ZoneInfo(timezone)
    start = datetime.fromisoformat(day).replace(tzinfo=zone)
    end = (start + timedelta(days=1)).astimezone(UTC)
    moment, count = start.astimezone(UTC) - timedelta(seconds=1), 0
    while True:
        following = next_moment("*/15 * * * *", timezone, moment)
        assert following is not None
        if following >= end:
            break
        assert count == 0 or following - moment == timedelta(minutes=15)
        moment, count = following, count + 1
    assert count == quarters


@settings(max_examples=60, deadline=None)
@given(
    expression=st.sampled_from(EXPRESSIONS),
    timezone=st.sampled_from(ZONES),
    after=st.datetimes(datetime(2015, 1, 1), datetime(2035, 1, 1), timezones=st.just(UTC)),
)
def test_moments_grow_strictly_and_none_is_skipped(expression: str, timezone: str, after: datetime) -> None:
    moment = after
    for _ in range(10):
        following = next_moment(expression, timezone, moment)
        assert following is not None
        assert following > moment
        assert following.tzinfo is UTC
        assert latest_moment(expression, timezone, until=following) == following
        # Wherever between the two we ask from, the answer is the same.
        assert next_moment(expression, timezone, moment + (following - moment) / 2) == following
        assert latest_moment(expression, timezone, until=following - timedelta(microseconds=1)) in (
            moment,
            latest_moment(expression, timezone, until=after),
        )
        moment = following


def test_rare_moments_are_found_in_both_directions() -> None:
    leap = datetime(2028, 2, 29, tzinfo=UTC)
    assert next_moment("0 0 29 2 *", "UTC", datetime(2024, 3, 1, tzinfo=UTC)) == leap
    assert latest_moment("0 0 29 2 *", "UTC", until=datetime(2032, 2, 28, tzinfo=UTC)) == leap


@pytest.mark.parametrize(
    ("given", "field", "told"),
    [
        ({"expression": "30 2 * *"}, "expression", "got 4 fields; write five, minute hour"),
        ({"expression": "0 30 2 * * *"}, "expression", "got 6 fields"),
        ({"expression": "61 2 * * *"}, "expression", "Bad minute"),
        ({"expression": "0 2 * * Caturday"}, "expression", "Bad day-of-week"),
        ({"expression": "0 2 31 2 *"}, "expression", "Bad day-of-month"),
        (
            {"expression": "0 2 * * *", "timezone": "Europe/Berln"},
            "timezone",
            "did you mean 'Europe/Berlin'?",
        ),
        (
            {"expression": "0 2 * * *", "timezone": "europe/berlin"},
            "timezone",
            "did you mean 'Europe/Berlin'?",
        ),
        ({"expression": "0 2 * * *", "timezone": "../../etc/passwd"}, "timezone", "IANA time zone"),
    ],
)
def test_bad_ones_name_field_and_remedy(given: dict[str, str], field: str, told: str) -> None:
    with pytest.raises(ValidationError) as caught:
        Cron.model_validate(given)
    (problem,) = caught.value.errors()
    assert problem["loc"] == (field,)
    assert told in problem["msg"]


@given(st.text(alphabet="0123456789*/,-L#W SUNMONJANFEB", max_size=30))
def test_any_expression_is_accepted_or_refused(expression: str) -> None:
    try:
        cron = Cron(expression=expression)
    except ValidationError:
        return
    assert next_moment(cron.expression, cron.timezone, datetime(2026, 1, 1, tzinfo=UTC)) is not None
