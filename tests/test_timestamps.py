"""Timestamps of RFC 3339 are valid, and nothing else is."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.timestamps import is_date_time


@pytest.mark.parametrize(
    "text",
    [
        "2024-05-14T08:41:12Z",
        "2024-05-14t08:41:12z",
        "2024-05-14T08:41:12.5Z",
        "2024-05-14T08:41:12.123456789012+02:00",
        "2024-05-14T23:59:59-23:59",
        "2024-05-14T08:41:12-00:00",
        "2024-02-29T00:00:00Z",
        "2000-02-29T00:00:00Z",
        "0000-02-29T00:00:00Z",
        "9999-12-31T23:59:59Z",
        # Leap seconds.
        "2016-12-31T23:59:60Z",
        "1990-12-31T15:59:60-08:00",
        "2017-01-01T05:29:60.5+05:30",
    ],
)
def test_a_timestamp_of_rfc_3339_is_valid(text):
    """With or without fractions, in any zone, with leap seconds."""
    assert is_date_time(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "2024-05-14",
        "08:41:12Z",
        "2024-05-14T08:41:12",
        "2024-05-14T08:41Z",
        "2024-05-14T08Z",
        "2024-05-14 08:41:12Z",
        "20240514T084112Z",
        "2024-W20-2T08:41:12Z",
        "2024-135T08:41:12Z",
        "24-05-14T08:41:12Z",
        "+2024-05-14T08:41:12Z",
        "12024-05-14T08:41:12Z",
        "2024-05-14T08:41:12.Z",
        "2024-05-14T08:41:12,5Z",
        "2024-05-14T08:41:12ZZ",
        "2024-05-14T08:41:12Z ",
        "2024-05-14T08:41:12Z\n",
        "2024-05-14T08:41:12+2",
        "2024-05-14T08:41:12+02",
        "2024-05-14T08:41:12+0200",
        "2024-05-14T08:41:12 +02:00",
        "2024-05-14T08:41:12UTC",
        # Out of range.
        "2024-13-45T99:99:99Z",
        "2024-00-14T08:41:12Z",
        "2024-13-14T08:41:12Z",
        "2024-05-00T08:41:12Z",
        "2024-05-32T08:41:12Z",
        "2024-04-31T08:41:12Z",
        "2023-02-29T08:41:12Z",
        "1900-02-29T08:41:12Z",
        "2024-02-30T08:41:12Z",
        "2024-05-14T24:00:00Z",
        "2024-05-14T08:60:00Z",
        "2024-05-14T08:41:61Z",
        "2024-05-14T08:41:12+24:00",
        "2024-05-14T08:41:12+02:60",
        "2024-05-14T08:41:60Z",
        "2016-12-31T23:59:60+01:00",
        # Digits outside ASCII.
        "٢٠٢٤-05-14T08:41:12Z",
        "2024-05-14T08:41:1\uff12Z",
    ],
)
def test_anything_else_is_not(text):
    """Other ISO 8601 forms, dates that do not exist, and times out of range."""
    assert not is_date_time(text)


offsets = st.integers(-23 * 60 - 59, 23 * 60 + 59).map(lambda minutes: timezone(timedelta(minutes=minutes)))


@given(st.datetimes(timezones=offsets | st.just(UTC)))
def test_every_time_is_valid_in_every_zone(time: datetime):
    """Python's own notation of any time is valid."""
    assert is_date_time(time.isoformat())


@given(st.dates(), st.integers(0, 40))
def test_days_beyond_the_end_of_a_month_are_invalid(date, day):
    """A day is valid exactly if the calendar has it."""
    text = f"{date.isoformat()[:8]}{day:02}"
    try:
        date.replace(day=day)
        exists = True
    except ValueError:
        exists = False
    assert is_date_time(f"{text}T00:00:00Z") == exists
